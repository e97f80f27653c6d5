"""Installs this project, where it lies, into the Python that runs this: the package, and the command ``recovery``.

Run it with the Python of Airflow, after its packages are installed: ``.venv/bin/python tools/install.py``.
"""

from __future__ import annotations

import shlex
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

COMMAND = """\
#!/bin/sh
# Python is isolated: it imports nothing from the working folder, from PYTHONPATH or from the user's own packages.
exec {python} -I -m recovery "$@"
"""


def main() -> None:
    """Write the path file that leads to the package, and the command."""
    Path(sysconfig.get_path("purelib"), "recovery.pth").write_text(f"{ROOT / 'include'}\n", encoding="utf-8")
    command = Path(sysconfig.get_path("scripts"), "recovery")
    command.write_text(COMMAND.format(python=shlex.quote(sys.executable)), encoding="utf-8")
    command.chmod(0o755)


if __name__ == "__main__":
    main()
