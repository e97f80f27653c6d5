"""The rows of a single table of a dump, as pg_restore writes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from recovery.runners.base import Runner
from recovery.sources.postgres.dump.archive import damaged, use_list
from recovery.sources.postgres.dump.copy_text import BLOCK

_ROWS_END = b"\n\\.\n"
_COPIES = b" FROM stdin;\n"


@contextmanager
def rows(runner: Runner, bin_folder: Path, folder: Path, line: str) -> Iterator[tuple[bytes, Iterator[bytes]]]:
    """The rows of a table, as its entry in the table of contents has them, for as long as a block runs.

    Returns:
        ``COPY ... FROM stdin``, and the text that it reads, both in the dump's encoding.

    Raises:
        ToolError: if pg_restore does not take it for a dump.
    """
    with use_list(runner, [line]) as option:
        argv: list[str | Path] = [bin_folder / "pg_restore", "--no-owner", option, "--file=-", folder]
        with runner.tool(argv, env={"LC_ALL": "C"}, output=True, reads=folder) as tool:
            yield _copy_statement(tool.stdout), _copy_text(tool.stdout)


def _copy_statement(stream: IO[bytes]) -> bytes:
    found = b""
    for line in stream:
        if found or line.startswith(b"COPY "):
            found += line
        if found.endswith(_COPIES):
            return found.removesuffix(b";\n")
    raise damaged("an entry of rows has none")


def _copy_text(stream: IO[bytes]) -> Iterator[bytes]:
    """COPY text up to its end; what follows is read, too, so that the tool comes to its own."""
    held, ended = b"\n", False  # the first byte of what is held was given already
    while block := stream.read(BLOCK):
        if not ended:
            held += block
            end = held.find(_ROWS_END)
            ended = end >= 0
            given = end if ended else max(len(held) - len(_ROWS_END), 0)
            yield held[1 : given + 1]
            held = held[given:]
    if not ended:
        raise damaged("an entry of rows does not end where they end")
