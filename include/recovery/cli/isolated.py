"""The command ``recovery`` of an installed wheel. ``tools/install.py`` writes that of the source tree, which does the same."""

import os
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Become an isolated Python, which imports nothing from the working folder, from PYTHONPATH or from the user's own packages."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", "recovery", *sys.argv[1:]])
