"""Stopping, starting and checking what uses the data: commands of the plan, as argv lists, without a shell."""

from __future__ import annotations

import logging
import shlex
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from recovery.errors import ToolError
from recovery.plan import Services
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
    """Run one command to its end, its words in the log."""
    shown = shlex.join(command)
    started = time.monotonic()
    try:
        done = subprocess.run(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=services.timeout.total_seconds(),
            check=False,
        )
        words = done.stdout.decode("utf-8", "replace").strip()[-_LAST_WORDS:] or f"exit status {done.returncode}, no words"
        outcome = Outcome(shown, done.returncode == 0, words, time.monotonic() - started)
    except subprocess.TimeoutExpired:
        words = f"it did not end within {human_duration(services.timeout)}"
        outcome = Outcome(shown, False, words, time.monotonic() - started)
    except OSError as error:
        outcome = Outcome(shown, False, f"it could not be started: {error}", time.monotonic() - started)
    log.log(logging.INFO if outcome.ok else logging.ERROR, "%s: %s", outcome.command, outcome.words)
    return outcome
