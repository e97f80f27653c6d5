"""Commands of the plan, as argv lists, without a shell: those that stop and start what uses the data, hooks, checks."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import PurePath
from typing import IO

from recovery.common.errors import ToolError
from recovery.common.units import human_duration
from recovery.plan.services import Services
from recovery.runners.local import die_with_parent

log = logging.getLogger(__name__)

_LAST_WORDS = 2000
_LOGGED = 100_000


@dataclass(frozen=True)
class Outcome:
    """How a command or a check ended."""

    title: str
    """What it is, for people: without arguments, which may be secret."""
    ok: bool
    words: str
    """The end of what it printed; of other checks, what was expected and found."""


def run_all(commands: Sequence[Sequence[str]], services: Services) -> None:
    """Run commands in order, each to its end.

    Raises:
        ToolError: at the first that fails or takes longer than the plan allows.
    """
    for number, command in enumerate(commands, 1):
        outcome = run_one(command, services.timeout)
        if not outcome.ok:
            which = f"{outcome.title}, command {number} of {len(commands)}"
            raise ToolError(f"{which}, failed: {outcome.words}", "Mend the service or the command in the plan.")


def run_one(command: Sequence[str], timeout: timedelta, title: str = "") -> Outcome:
    """Run one command to its end, its words in the log; of the command itself only what it is called.

    Args:
        command: the program and its arguments.
        timeout: how long it may take.
        title: what it is called; the program's name by default.

    It starts in the folder ``/``.

    What it leaves running in the background stays, and may keep its output open. The command itself ends with the task,
    so that a stop whose task was killed does not run on beside the start of the rollback.
    """
    title = title or PurePath(command[0]).name
    with tempfile.TemporaryFile(prefix="recovery-service-") as output:
        try:
            ok, end, words = _run_to_end(command, output, timeout.total_seconds())
        except OSError as error:
            ok, end, words = False, f"it could not be started: {error}", ""
    log.log(logging.INFO if ok else logging.ERROR, "%s: %s", title, f"{end}\n{words}".strip())
    return Outcome(title, ok, f"{end} {words[-_LAST_WORDS:]}".strip())


def _run_to_end(command: Sequence[str], output: IO[bytes], seconds: float) -> tuple[bool, str, str]:
    """Whether it succeeded, how it ended where its words don't say it, and its words."""
    # A file takes the output: whoever waits for the end of a pipe also waits for everything that a command started.
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        cwd="/",
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    late = ""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        late = f"it did not end within {human_duration(seconds)}"
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    output.seek(max(0, output.seek(0, os.SEEK_END) - _LOGGED))
    words = output.read().decode("utf-8", "replace").strip()
    if late:
        return False, late, words
    return process.returncode == 0, "" if words else f"exit status {process.returncode}, no output", words
