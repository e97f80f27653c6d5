"""Stopping, starting and checking what uses the data: commands of the plan, as argv lists, without a shell."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from recovery.errors import ToolError
from recovery.plan import Services
from recovery.runners.local import die_with_parent
from recovery.units import human_duration

log = logging.getLogger(__name__)

_LAST_WORDS = 2000


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    command: str
    ok: bool
    words: str
    """The end of what it printed."""
    seconds: float


def run_all(commands: Sequence[Sequence[str]], services: Services) -> None:
    """Run commands in order, each to its end.

    Raises:
        ToolError: at the first that fails or takes longer than the plan allows.
    """
    for command in commands:
        outcome = run_one(command, services)
        if not outcome.ok:
            raise ToolError(f"The command {outcome.command} failed: {outcome.words}", "Mend the service or the command in the plan.")


def run_one(command: Sequence[str], services: Services) -> Outcome:
    """Run one command to its end, its words in the log.

    What it leaves running in the background stays, and may keep its output open. The command itself ends with the task,
    so that a stop whose task was killed does not run on beside the start of the way back.
    """
    started = time.monotonic()
    with tempfile.TemporaryFile(prefix="recovery-service-") as output:
        try:
            ok, words = _run_to_end(command, output, services.timeout.total_seconds())
        except OSError as error:
            ok, words = False, f"it could not be started: {error}"
    outcome = Outcome(shlex.join(command), ok, words, time.monotonic() - started)
    log.log(logging.INFO if outcome.ok else logging.ERROR, "%s: %s", outcome.command, outcome.words)
    return outcome


def _run_to_end(command: Sequence[str], output: IO[bytes], seconds: float) -> tuple[bool, str]:
    # A file takes the output: whoever waits for the end of a pipe also waits for everything that a command started.
    process = subprocess.Popen(
        list(command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, preexec_fn=die_with_parent
    )
    try:
        status = process.wait(seconds)
        said = f"exit status {status}, no words"
    except subprocess.TimeoutExpired:
        status, said = -signal.SIGKILL, ""
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    output.seek(max(0, output.seek(0, os.SEEK_END) - _LAST_WORDS))
    words = output.read().decode("utf-8", "replace").strip()
    if not said:
        return False, f"it did not end within {human_duration(seconds)} {words}".strip()
    return status == 0, words or said
