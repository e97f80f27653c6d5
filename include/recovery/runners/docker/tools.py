"""A server's client tools in containers of its own image; see :class:`recovery.runners.base.Runner`.

A stream of the Engine can be cut without a sign. So each tool's output ends with a line that no tool can foresee, and its words, too: what
lacks it was cut.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import secrets
import shlex
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock, Thread
from typing import IO

from recovery.common.errors import ContainerError, RecoveryError, ToolError
from recovery.common.units import human_size
from recovery.common.wording import escaped, shortened
from recovery.runners.base import LAST_WORDS, Argv, failed, find_in_places
from recovery.runners.docker.engine import Container, Engine
from recovery.runners.docker.stream import STDERR, attach, create, run
from recovery.runners.docker.toolbox import SharedFolder, Toolbox, sweep

log = logging.getLogger(__name__)

_RUN = """%s
status=$?
end=$(printf '\\001%s %03d.' "$0" "$status")
printf %s "$end"
printf %s "$end" >&2
kill -KILL 0"""
"""Runs a tool, says on both streams that this was all and how it ended, and ends what the tool left behind."""
_END = 1 + 32 + 1 + 3 + 1
"""Bytes of what is said there."""
_SIGNALLED = range(129, 193)
"""What a shell says of a tool that a signal ended: 128 and the signal's number."""
_NOT_THERE = {126, 127}
_MOST_OUTPUT = 1 << 30
"""Bytes: more than any list of entries takes, and less than a worker's memory."""
_LONGEST_LINE = 1 << 16
"""Bytes of a line of words that are kept together."""
_MOST_WORDS = 1 << 28
"""Bytes of words: more than pg_restore says of any dump, and less than a log's disk has."""
_LEAVES_WITHIN = 10.0
_LONGEST_VERSION = 200


def _command(argv: Argv, mark: str) -> list[str]:
    """A tool in its shell. The Engine takes UTF-8 only, so arguments that are none are written into the shell's script."""
    parts = [os.fsencode(part) for part in argv]
    try:
        return ["sh", "-c", _RUN.replace("%s", '"$@"', 1), mark, *(part.decode() for part in parts)]
    except UnicodeDecodeError:
        return ["sh", "-c", _RUN.replace("%s", " ".join(map(_word, parts)), 1), mark]


def _word(part: bytes) -> str:
    try:
        return shlex.quote(part.decode())
    except UnicodeDecodeError:
        return "\"$(printf '{}')\"".format("".join(f"\\{byte:03o}" for byte in part))


class _Ended:
    """A stream of a tool without its end: what may be the beginning of the end is held back."""

    def __init__(self, mark: str) -> None:
        self._mark = f"\1{mark} ".encode()
        self._end = re.compile(re.escape(self._mark) + rb"(\d{3})\.")
        self._held = b""

    def piece(self, piece: bytes) -> bytes:
        """What certainly came before the end."""
        found = self._held + piece
        begins = found.find(self._mark)
        if begins < 0:
            begins = found.rfind(b"\1")
            begins = begins if begins >= 0 and self._mark.startswith(found[begins:]) else len(found)
        self._held = found[begins : begins + _END]  # what comes later is of a child that the tool left behind
        return found[:begins]

    @property
    def status(self) -> int | None:
        """How the tool ended; None if the end has not come."""
        found = self._end.match(self._held)
        return int(found[1]) if found else None


class ContainerTool:
    """A tool that runs in a container; see :class:`recovery.runners.base.Tool`."""

    def __init__(self, engine: Engine, exec_id: str, mark: str, name: str, output: bool, on_line: Callable[[str], None] | None) -> None:
        self._engine, self._exec_id, self._name, self._on_line = engine, exec_id, name, on_line
        self.last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._ends = {1: _Ended(mark), STDERR: _Ended(mark)}
        self._line = b""
        self._error: Exception | None = None
        self._output: IO[bytes] | None = None
        self._printed: IO[bytes] | None = None
        if output:
            reads, writes = os.pipe()
            self._output, self._printed = os.fdopen(reads, "rb"), os.fdopen(writes, "wb", buffering=0)
        self._thread = Thread(target=self._listen, name=f"{name} output", daemon=True)
        self._thread.start()

    @property
    def stdout(self) -> IO[bytes]:
        """What it prints; only if started with ``output=True``."""
        assert self._output is not None
        return self._output

    def wait(self) -> int:
        """See :meth:`recovery.runners.base.Tool.wait`.

        Raises:
            ToolError: if its streams were cut.
        """
        self._thread.join()
        if isinstance(self._error, BrokenPipeError):
            return -signal.SIGPIPE
        statuses = {end.status for end in self._ends.values()}
        if None in statuses or len(statuses) != 1:
            raise ToolError(
                f"{self._name} ran in a container, and its output was cut{f': {self._error}' if self._error else ''}.",
                "Look whether the container and the Engine run, then try again.",
            )
        status = statuses.pop() or 0
        return _SIGNALLED.start - 1 - status if status in _SIGNALLED else status

    def leave(self) -> None:
        """Wait for the end of its streams, once its container is gone."""
        self._thread.join(_LEAVES_WITHIN)  # of an Engine that does not answer, it ends with this process

    def _listen(self) -> None:
        try:
            asyncio.run(self._read())
        except (RecoveryError, OSError) as error:
            self._error = error
        finally:
            if self._printed:
                self._printed.close()
            if self._line:
                self._say(self._line)

    async def _read(self) -> None:
        stream = await attach(self._engine, self._exec_id)
        left = _MOST_WORDS
        try:
            async for number, piece in stream.pieces():
                found = self._ends[number].piece(piece)
                if number == STDERR:
                    left -= len(found)
                    if left < 0:
                        raise ContainerError("It has words without end.", "Look at the program in its image.")
                    self._words(found)
                elif self._printed:
                    self._print(self._printed, found)
                if all(end.status is not None for end in self._ends.values()):
                    return
        finally:
            await stream.close()

    @staticmethod
    def _print(where: IO[bytes], found: bytes) -> None:
        left = memoryview(found)
        while left:
            left = left[where.write(left) :]

    def _words(self, found: bytes) -> None:
        *lines, self._line = (self._line + found).split(b"\n")
        if len(self._line) > _LONGEST_LINE:
            lines, self._line = [*lines, self._line], b""
        for line in lines:
            self._say(line)

    def _say(self, raw: bytes) -> None:
        line = escaped(raw.decode("utf-8", "replace").rstrip())
        self.last_words.append(line)
        if self._on_line:
            self._on_line(line)
        else:
            log.info("%s: %s", self._name, line)


class ContainerRunner:
    """Runs client tools in containers of a server's image; see :class:`recovery.runners.base.Runner`. Close it.

    Args:
        engine: whose container the server is; closed with this.
        server: the server's container.
        staging: the folder that all workers share.
    """

    shares_files = True

    def __init__(self, engine: Engine, server: Container, staging: Path) -> None:
        self._engine, self._server = engine, server
        self._lock = Lock()
        self._boxes: dict[tuple[int, int] | None, Toolbox] = {}
        self._shared = SharedFolder(engine, staging)
        try:
            sweep(engine, self._shared)
        except BaseException:
            self._shared.close()
            raise

    @property
    def scratch(self) -> Path:
        """See :attr:`recovery.runners.base.Runner.scratch`."""
        return self._shared.path

    def seen(self, file: Path) -> Path:
        """See :meth:`recovery.runners.base.Runner.seen`."""
        copy = self.scratch / hashlib.sha256(os.fsencode(file)).hexdigest()
        with self._lock:
            if not copy.exists() and file.exists():  # libpq goes on without some that are not there
                shutil.copyfile(file, copy)
                copy.chmod(0o600)
        return copy

    def close(self) -> None:
        """End all tools, and remove their containers."""
        try:
            for box in self._boxes.values():
                box.close()
        finally:
            self._boxes.clear()
            self._shared.close()
            self._engine.close()

    def places(self, folders: Sequence[Path], patterns: Sequence[str] = ()) -> list[Path]:
        """See :meth:`recovery.runners.base.Runner.places`; the search path is the image's."""
        found = []
        for pattern in patterns:
            listed = self.run(["sh", "-c", f"printf '%s\\n' {pattern}"]).decode("utf-8", "surrogateescape").splitlines()
            found += [Path(each) for each in sorted(listed, reverse=True) if each != pattern]
        path = self.run(["sh", "-c", 'printf %s "$PATH"']).decode("utf-8", "surrogateescape").split(":")
        return list(dict.fromkeys([*folders, *found, *(Path(each) for each in path if each.startswith("/"))]))

    def has(self, program: Path) -> bool:
        """See :meth:`recovery.runners.base.Runner.has`."""
        box = self._box(None)
        with self._lock:
            status, _ = run(self._engine, box.id, ["sh", "-c", 'test -f "$0" && test -x "$0"', str(program)])
        return status == 0

    def find_tool(self, name: str, folders: Sequence[Path] = ()) -> str:
        """See :meth:`recovery.runners.base.Runner.find_tool`."""
        return find_in_places(self, name, folders, f"in the image of {self._server.name}")

    def version(self, program: str | Path) -> str:
        """See :meth:`recovery.runners.base.Runner.version`."""
        lines = self.run([program, "--version"]).decode("utf-8", "replace").splitlines()
        return escaped(lines[0][:_LONGEST_VERSION]) if lines else ""

    def run(self, argv: Argv, *, env: Mapping[str, str] | None = None, reads: Path | None = None, writes: Path | None = None) -> bytes:
        """See :meth:`recovery.runners.base.Runner.run`."""
        with self.tool(argv, env=env, output=True, reads=reads, writes=writes) as running:
            printed = running.stdout.read(_MOST_OUTPUT)
            if running.stdout.read(1):
                raise ToolError(
                    f"{os.fsdecode(argv[0])} prints more than {human_size(_MOST_OUTPUT)} in the image of {self._server.name}.",
                    "Look whether this is PostgreSQL's own client tool.",
                    retryable=False,
                )
            return printed

    @contextmanager
    def tool(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        output: bool = False,
        on_line: Callable[[str], None] | None = None,
        reads: Path | None = None,
        writes: Path | None = None,
    ) -> Iterator[ContainerTool]:
        """See :meth:`recovery.runners.base.Runner.tool`."""
        name, mark = Path(os.fsdecode(argv[0])).name, secrets.token_hex(16)
        box = self._new_box(reads, writes) if writes else self._box(reads)
        try:
            with self._lock:
                exec_id = create(self._engine, box.id, _command(argv, mark), environment=env)
            running = ContainerTool(self._engine, exec_id, mark, name, output, on_line)
            try:
                try:
                    yield running
                finally:
                    if output:
                        running.stdout.close()  # a tool that still writes ends, where it would wait for ever, and its container with it
                status = running.wait()
            except BaseException:
                self._end(box)
                running.leave()
                raise
            if status == -signal.SIGPIPE:
                self._end(box)
        finally:
            if writes:
                box.close()
        if status in _NOT_THERE:
            raise ToolError(
                f"{name} could not be started in the image of {self._server.name}: {' '.join(running.last_words)}.",
                "Use an image that has PostgreSQL's client tools, or leave out tools.postgres: container.",
            )
        if status:
            raise failed(running, name, status)
        if writes:
            _refuse_all_but_files(writes, name)

    def _box(self, reads: Path | None) -> Toolbox:
        """The container that sees what a folder lies in; made once for each such folder."""
        beside = self._beside(reads)
        key = (beside.stat().st_dev, beside.stat().st_ino) if beside else None
        with self._lock:
            if key not in self._boxes:
                self._boxes[key] = self._new_box(reads)
            return self._boxes[key]

    def _new_box(self, reads: Path | None, writes: Path | None = None) -> Toolbox:
        return Toolbox(self._engine, self._server, self._shared, self._beside(reads), writes)

    def _beside(self, reads: Path | None) -> Path | None:
        return reads.parent if reads and not reads.is_relative_to(self.scratch) else None

    def _end(self, box: Toolbox) -> None:
        """End a container, and all that runs in it."""
        with self._lock:
            self._boxes = {key: each for key, each in self._boxes.items() if each is not box}
        with suppress(RecoveryError):  # what went wrong before is the news; it ends with this process
            box.close()


def _refuse_all_but_files(folder: Path, name: str) -> None:
    """A client tool writes plain files. A link could lead to another file of the worker's, and a pipe would hold up who reads it."""
    with os.scandir(folder) as found:
        strange = [each.name for each in found if not each.is_file(follow_symlinks=False)]
    if strange:
        raise ToolError(
            f"{name} wrote what is no file into {folder}: {shortened([escaped(each) for each in strange])}.",
            "Look whether this is PostgreSQL's own client tool.",
            retryable=False,
        )
