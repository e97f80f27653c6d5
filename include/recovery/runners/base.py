"""What runs a source's client tools, wherever that is: a source is handed a :class:`Runner` and starts every tool by it.

A runner promises, whichever it is:

- Every word of a tool's standard error reaches the log, or whoever asked for its lines.
- Each exit status counts: another one than 0 is an error, with the tool's last words.
- Passwords are in the environment or in a file of mode 0600, never in an argument, which others can read.
- Tools start in the folder ``/``, and none is looked up in the working folder. A path in an argument is absolute.
- Nothing is left running: not after the block that started a tool, and not after a kill of the task.

Output arrives in one of two ways. It is *streamed*: the tool's standard output is read by this process. Or it is *in a
folder that both sides see*: an argument names a folder or file of this worker's. The first is to be had of every runner,
the second only of one that :attr:`Runner.shares_files`; a source that needs it says so by :func:`need_shared_files`. A tool
may see nothing but what it is said to read and write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Protocol

from recovery.common.errors import ToolError

Argv = Sequence[str | bytes | Path]
"""A program and its arguments, without a shell. Never a secret: other users of the machine can read it."""


LAST_WORDS = 20
"""Lines of a tool's standard error that are kept for its error."""


class Tool(Protocol):
    """A tool that runs."""

    @property
    def stdout(self) -> IO[bytes]:
        """What it prints, as it prints it; only if started with ``output=True``."""

    @property
    def last_words(self) -> Sequence[str]:
        """The last lines of its standard error; all of them up to its end only once :meth:`wait` has returned."""

    def wait(self) -> int:
        """Wait for its end and its last words; the exit status, negative for the number of a signal."""


class Runner(Protocol):
    """A place where client tools run."""

    @property
    def shares_files(self) -> bool:
        """Whether its tools see folders of this worker under the same paths: :attr:`scratch`, and what each is said to read and write."""

    @property
    def scratch(self) -> Path | None:
        """Where temporary files are made that tools are to read; None: where this worker makes its own."""

    def seen(self, file: Path) -> Path:
        """The path under which tools see a file of this worker that a Connection names, such as a certificate."""

    def places(self, folders: Sequence[Path], patterns: Sequence[str] = ()) -> list[Path]:
        """Where programs are looked for there, in order, each folder once.

        Args:
            folders: the first ones, whether they are there or not.
            patterns: absolute paths with wildcards; what there is of each comes next, the last name first.

        Its search path comes last.
        """

    def has(self, program: Path) -> bool:
        """Whether a path is that of a program there, which may be run."""

    def find_tool(self, name: str, folders: Sequence[Path] = ()) -> str:
        """The path of a tool there, in the first of :meth:`places` that has it.

        Raises:
            ToolError: if nobody has it, with the places that were looked at.
        """

    def version(self, program: str | Path) -> str:
        """The first line that a program prints when it is asked for its version.

        Raises:
            ToolError: as :meth:`tool`.
        """

    def run(self, argv: Argv, *, env: Mapping[str, str] | None = None, reads: Path | None = None, writes: Path | None = None) -> bytes:
        """Run a tool to its end and return what it printed; for small outputs. Its arguments are those of :meth:`tool`.

        Raises:
            ToolError: as :meth:`tool`.
        """

    def tool(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        output: bool = False,
        on_line: Callable[[str], None] | None = None,
        reads: Path | None = None,
        writes: Path | None = None,
    ) -> AbstractContextManager[Tool]:
        """Start a tool for the length of a block; the end of the block waits for it and checks its exit status.

        Args:
            argv: the command.
            env: added to the environment that tools have there; passwords go here.
            output: stream its standard output, by :attr:`Tool.stdout`; else nobody reads it.
            on_line: gets each line of its standard error, from a thread, in place of the log.
            reads: a folder of this worker's that an argument names. The tool may see what lies beside it, too.
            writes: the same, and the tool writes there. It is there, and empty. Nothing else of this worker's can be written to.

        Raises:
            ToolError: if it can't be started or ends with another exit status than 0, with its last words.
        """


def find_in_places(runner: Runner, name: str, folders: Sequence[Path], where: str) -> str:
    """The path of a tool, see :meth:`Runner.find_tool`.

    Args:
        runner: where it is looked for.
        name: the tool.
        folders: the first places.
        where: where to install it if nobody has it, for the message.
    """
    places = runner.places(folders)
    for place in places:
        if runner.has(place / name):
            return str(place / name)
    raise ToolError(
        f"The tool {name} is not installed; looked in {', '.join(map(str, places))}.",
        f"Install it {where}, or name its folder in the plan under tools.",
    )


def failed(tool: Tool, name: str, status: int) -> ToolError:
    """The error of a tool that ended with an exit status, with its last words."""
    how = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
    words = "\n".join(tool.last_words) or "it said nothing"
    return ToolError(f"{name} {how}:\n{words}\n", "Read what it said.")


def need_shared_files(runner: Runner, what: str) -> None:
    """Refuse a runner whose tools don't see this worker's folders.

    Args:
        runner: the runner that was handed in.
        what: the tools that read or write there, as the subject of a sentence in the plural.

    Raises:
        ToolError: if it doesn't share them.
    """
    if not runner.shares_files:
        raise ToolError(
            f"{what} read and write files in this worker's folders, and where they would run these folders are not seen.",
            "Let them run on the worker itself, or where its folders are mounted under the same paths.",
            retryable=False,
        )
