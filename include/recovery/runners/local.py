"""Running client tools: argv lists only, their words in the log, their failure an error, no child left behind."""

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
from pathlib import Path
from threading import Thread
from typing import IO

from recovery.common.errors import ToolError

log = logging.getLogger(__name__)

_LAST_WORDS = 20
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def find_tool(name: str, folders: Sequence[Path | str] = ()) -> str:
    """The path of a tool: the first of ``folders`` that has it, else ``PATH``.

    Raises:
        ToolError: if nobody has it, with the places that were looked at.
    """
    places = [str(folder) for folder in folders] + os.get_exec_path()
    for place in places:
        candidate = f"{place}/{name}"
        if os.access(candidate, os.X_OK) and Path(candidate).is_file():
            return candidate
    raise ToolError(
        f"The tool {name} is not installed; looked in {', '.join(places)}.",
        "Install it on every worker, or name its folder in the plan under tools.",
    )


class Tool:
    """A tool that runs: its stdout to read, its stdin to write, its stderr in the log."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, on_line: Callable[[str], None] | None) -> None:
        self._process = process
        self._name = name
        self._on_line = on_line
        self.last_words: deque[str] = deque(maxlen=_LAST_WORDS)
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


@contextmanager
def tool(
    argv: Sequence[str | bytes | Path],
    *,
    env: Mapping[str, str] | None = None,
    output: bool = False,
    feed: bool = False,
    stdin: IO[bytes] | None = None,
    cwd: Path | None = None,
    may_fail: bool = False,
    on_line: Callable[[str], None] | None = None,
) -> Iterator[Tool]:
    """Start a tool for the length of a block; the end of the block waits for it and checks its exit status.

    Args:
        argv: the command. Never a secret: other users of the machine can read it.
        env: added to this process's environment; passwords go here.
        output: read its stdout through :attr:`Tool.stdout`.
        feed: write its stdin through :attr:`Tool.stdin`.
        stdin: a file to read instead, from where it is.
        cwd: where it runs.
        on_line: gets each line of its stderr, from a thread, in place of the log.
        may_fail: leave the exit status to the caller, who asks :meth:`Tool.wait`.

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
            cwd=cwd,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
    except OSError as error:
        raise ToolError(f"{name} could not be started: {error}.", "Check that it is installed and may be run.") from error
    running = Tool(process, name, on_line)
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


def failed(running: Tool, name: str, status: int) -> ToolError:
    """The error of a tool that ended with an exit status, with its last words."""
    how = f"was killed by signal {-status}" if status < 0 else f"failed with exit status {status}"
    words = "\n".join(running.last_words) or "it said nothing"
    return ToolError(f"{name} {how}:\n{words}\n", "Read what it said; the task is tried again if it has retries left.")


def run(argv: Sequence[str | bytes | Path], *, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> bytes:
    """Run a tool to its end and return what it printed; for small outputs.

    Raises:
        ToolError: as :func:`tool`.
    """
    log.debug("running %s", shlex.join(os.fsdecode(part) for part in argv))
    with tool(argv, env=env, output=True, cwd=cwd) as running:
        return running.stdout.read()


def die_with_parent() -> None:
    """For a child between fork and exec: it is killed when the thread that started it ends, however it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
