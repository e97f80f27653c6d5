"""Running client tools on this worker: argv lists only, their words in the log, their failure an error, no child left behind."""

from __future__ import annotations

import ctypes
import logging
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from threading import Thread
from typing import IO

from recovery.common.errors import ToolError
from recovery.runners.base import LAST_WORDS, Argv, failed, find_in_places

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class LocalTool:
    """A child of this process: its stdout to read, its stdin to write, its stderr in the log."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, on_line: Callable[[str], None] | None) -> None:
        self._process = process
        self._name = name
        self._on_line = on_line
        self.last_words: deque[str] = deque(maxlen=LAST_WORDS)
        self._reader = Thread(target=self._listen, name=f"{name} stderr", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Process id, which is its process group's too."""
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """What it prints; only if started with ``output=True``."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        """What it reads; only if started with ``feed=True``. Close it when done."""
        assert self._process.stdin is not None
        return self._process.stdin

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for raw in self._process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            self.last_words.append(line)
            if self._on_line:
                self._on_line(line)
            else:
                log.info("%s: %s", self._name, line)

    def wait(self) -> int:
        """Wait for its end and its last words; the exit status. Children that it leaves behind end with it."""
        if self._process.returncode is None:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
        self._reader.join()
        status: int = self._process.returncode
        return status

    def kill(self) -> None:
        """End it and all its children, at once."""
        if self._process.returncode is None:  # not waited for yet, so its number can't be another process's
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()


class LocalRunner:
    """This worker, whose tools are children of this process; see :class:`recovery.runners.base.Runner`."""

    shares_files = True
    scratch = None

    def seen(self, file: Path) -> Path:
        """See :meth:`recovery.runners.base.Runner.seen`."""
        return file

    def places(self, folders: Sequence[Path], patterns: Sequence[str] = ()) -> list[Path]:
        """See :meth:`recovery.runners.base.Runner.places`; the search path is ``PATH``, without relative folders."""
        found = [folder for pattern in patterns for folder in sorted(Path("/").glob(pattern.lstrip("/")), reverse=True)]
        path = [Path(folder) for folder in os.get_exec_path() if Path(folder).is_absolute()]  # else a program of the working folder
        return list(dict.fromkeys([*folders, *found, *path]))

    def has(self, program: Path) -> bool:
        """See :meth:`recovery.runners.base.Runner.has`."""
        return os.access(program, os.X_OK) and program.is_file()

    def find_tool(self, name: str, folders: Sequence[Path] = ()) -> str:
        """See :meth:`recovery.runners.base.Runner.find_tool`."""
        return find_in_places(self, name, folders, "on every worker")

    def version(self, program: str | Path) -> str:
        """See :meth:`recovery.runners.base.Runner.version`. It is asked again once the file has changed."""
        try:
            changed = Path(program).stat().st_mtime
        except OSError as error:
            raise _unstarted(Path(program).name, error) from error
        return _version(str(program), changed)

    def run(self, argv: Argv, *, env: Mapping[str, str] | None = None, reads: Path | None = None, writes: Path | None = None) -> bytes:
        """See :meth:`recovery.runners.base.Runner.run`."""
        log.debug("running %s", shlex.join(os.fsdecode(part) for part in argv))
        with self.tool(argv, env=env, output=True) as running:
            return running.stdout.read()

    @contextmanager
    def tool(
        self,
        argv: Argv,
        *,
        env: Mapping[str, str] | None = None,
        output: bool = False,
        feed: bool = False,
        stdin: IO[bytes] | None = None,
        folder: Path | None = None,
        may_fail: bool = False,
        on_line: Callable[[str], None] | None = None,
        reads: Path | None = None,
        writes: Path | None = None,
    ) -> Iterator[LocalTool]:
        """See :meth:`recovery.runners.base.Runner.tool`; here with more, for packs, which are always made and read on this worker.

        Args:
            argv: the command.
            env: added to this process's environment.
            output: read its stdout through :attr:`LocalTool.stdout`.
            feed: write its stdin through :attr:`LocalTool.stdin`.
            stdin: a file to read instead, from where it is.
            folder: where it starts; else in this process's own. It may lead through a descriptor of this process.
            may_fail: leave the exit status to the caller, who asks :meth:`LocalTool.wait`.
            on_line: gets each line of its stderr, from a thread, in place of the log.
            reads: of no account here: a child sees all that this process sees.
            writes: the same.

        Raises:
            ToolError: if it can't be started or ends with another exit status than 0, with its last words.
        """
        name = Path(os.fsdecode(argv[0])).name
        try:
            process = subprocess.Popen(
                [os.fsencode(part) for part in argv],
                env={**os.environ, **(env or {})},
                stdin=stdin or (subprocess.PIPE if feed else subprocess.DEVNULL),
                stdout=subprocess.PIPE if output else subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                cwd=folder or "/",  # a folder of somebody else's may have what a program looks for
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        except OSError as error:
            raise _unstarted(name, error) from error
        running = LocalTool(process, name, on_line)
        try:
            yield running
            if feed and not running.stdin.closed:
                running.stdin.close()
            if output:
                running.stdout.close()  # a tool that still writes ends, where it would wait for ever
            status = running.wait()
        finally:
            running.kill()
        if status and not may_fail:
            raise failed(running, name, status)


LOCAL = LocalRunner()
"""The one instance: it holds nothing."""


@lru_cache(maxsize=64)
def _version(program: str, changed: float) -> str:
    """What a program says of its version; ``changed`` is its mtime, so that an upgrade is noticed."""
    lines = LOCAL.run([program, "--version"]).decode("utf-8", "replace").splitlines()
    return lines[0] if lines else ""


def _unstarted(name: str, error: OSError) -> ToolError:
    return ToolError(f"{name} could not be started: {error}.", "Check that it is installed and may be run.")


def die_with_parent() -> None:
    """For a child between fork and exec: it is killed when the thread that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
