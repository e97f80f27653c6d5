"""A runner that says what it was asked to start."""

import os
from pathlib import Path

from recovery.runners.local import LOCAL


class Recording:
    """This worker's runner, and the command of everything that it starts.

    Args:
        shares_files: what it says of its files.
    """

    scratch = None

    def __init__(self, *, shares_files=True):
        self.shares_files = shares_files
        self.started: list[list[str]] = []
        self.places, self.has, self.find_tool, self.seen = LOCAL.places, LOCAL.has, LOCAL.find_tool, LOCAL.seen

    @property
    def names(self):
        """The names of the programs that ran, those left out that only said their version."""
        return {Path(argv[0]).name for argv in self.started if argv[1:] != ["--version"]}

    def version(self, program):
        self.started.append([str(program), "--version"])
        return LOCAL.version(program)

    def run(self, argv, **how):
        self._note(argv)
        return LOCAL.run(argv, **how)

    def tool(self, argv, **how):
        self._note(argv)
        return LOCAL.tool(argv, **how)

    def _note(self, argv):
        self.started.append([os.fsdecode(part) for part in argv])
