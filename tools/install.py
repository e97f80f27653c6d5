"""Installs this project, where it lies, into the Python that runs this: the package, the command ``recovery``, and what Airflow asks for.

Run it with the Python of Airflow, after its packages are installed: ``.venv/bin/python tools/install.py``. The wheel does without:
this is for those who work on the tree, and for the image.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMAND = """\
#!/bin/sh
# Python is isolated: it imports nothing from the working folder, from PYTHONPATH or from the user's own packages.
exec {python} -I -m recovery "$@"
"""
ENTRY_POINTS = """\
[apache_airflow_provider]
provider_info = recovery.airflow.provider:get_provider_info
"""
"""As pyproject.toml has them, which the image has not."""


def main() -> None:
    """Write the path file that leads to the package, the command, and the metadata by which Airflow finds the Connection types."""
    packages, command = Path(sysconfig.get_path("purelib")), Path(sysconfig.get_path("scripts"), "recovery")
    (packages / "recovery.pth").write_text(f"{ROOT / 'include'}\n", encoding="utf-8")
    command.write_text(COMMAND.format(python=shlex.quote(sys.executable)), encoding="utf-8")
    command.chmod(0o755)
    for other in packages.glob("openmanus_recovery-*.dist-info"):
        shutil.rmtree(other)
    metadata = packages / f"openmanus_recovery-{version()}.dist-info"
    metadata.mkdir()
    texts = {
        "METADATA": f"Metadata-Version: 2.1\nName: openmanus-recovery\nVersion: {version()}\n",
        "INSTALLER": "tools/install.py\n",
        "entry_points.txt": ENTRY_POINTS,
    }
    for name, text in texts.items():
        (metadata / name).write_text(text, encoding="utf-8")
    files = ["recovery.pth", *(f"{metadata.name}/{name}" for name in (*texts, "RECORD"))]
    (metadata / "RECORD").write_text("".join(f"{file},,\n" for file in files), encoding="utf-8")  # so that pip and uv can remove it


def version() -> str:
    """The version of the tree."""
    found = re.search(r'^VERSION = "(.+)"$', (ROOT / "include/recovery/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
    assert found, "the package says its version"
    return found[1]


if __name__ == "__main__":
    main()
