"""Whether a container that was started is well: healthy, or without a healthcheck running for a moment."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from datetime import timedelta
from threading import Timer
from typing import Any

from recovery.common.errors import ContainerError, ContainerUnwell
from recovery.common.units import human_duration
from recovery.common.wording import escaped
from recovery.plan.docker import DockerContainer
from recovery.runners.docker.engine import Container, Engine

log = logging.getLogger(__name__)

STEADY = timedelta(seconds=2)
"""So long a container without a healthcheck runs before it counts as started."""
_POLL = 0.3
_LINES = 20
_BYTES = 1 << 16
_LOG_WITHIN = 30.0
_CREDENTIALS = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(@)")
_SHORTEST_SECRET = 6


def health(container: Container) -> str:
    """``healthy``, ``starting`` or ``unhealthy``; empty if nothing checks it."""
    status = str((container.details["State"].get("Health") or {}).get("Status", ""))
    return "" if status == "none" else status


def wait_until_well(engine: Engine, name: str, timeout: timedelta) -> None:
    """Wait until a container that was started is healthy; without a healthcheck, until it has run for :data:`STEADY`.

    Raises:
        ContainerUnwell: if it is unhealthy, has ended, is gone or paused, or is not well in time; its last lines are in the log.
        ContainerError: if the Engine does not answer.
    """
    begun = time.monotonic()
    steady_since, started_at = begun, ""
    log.info("waiting until %s is well, for %s at most", name, human_duration(timeout))
    while True:
        found = engine.containers(DockerContainer(container=name))
        if not found:
            raise _not_well(name, "it is gone")
        [container] = found
        now = time.monotonic()
        if (started := container.details["State"]["StartedAt"]) != started_at or container.status != "running":
            steady_since, started_at = now, started
        if fault := _fault(container):
            break
        if container.status == "running" and (health(container) == "healthy" or _steady(container, now - steady_since)):
            log.info("%s is %s after %s", name, health(container) or "running", human_duration(now - begun))
            return
        if now - begun > timeout.total_seconds():
            fault = f"it is {health(container) or container.status} after {human_duration(timeout)}"
            break
        time.sleep(_POLL)
    log_last_lines(engine, container)
    raise _not_well(name, fault)


def _steady(container: Container, seconds: float) -> bool:
    return not health(container) and seconds >= STEADY.total_seconds()


def _fault(container: Container) -> str:
    """What is wrong with it for good."""
    if container.status in {"exited", "dead"}:
        return f"it has ended, with status {container.details['State']['ExitCode']}"
    if container.status == "paused":
        return "it is paused"
    return "it is unhealthy" if health(container) == "unhealthy" else ""


def _not_well(name: str, why: str) -> ContainerUnwell:
    return ContainerUnwell(
        f"The container {name} was started, and {why}.",
        "Read its last lines in the log of this task. Mend the cause, or start it by hand.",
    )


def log_last_lines(engine: Engine, container: Container) -> None:
    """Write the end of what a container printed into this task's log, and nowhere else: no mail, no gate and no report has it.

    What the container has in its environment, and passwords in addresses, are left out of it.
    """
    try:
        with engine.errors(f"Reading the log of {container.name}"):
            text = _tail(engine.client.logs(container.id, tail=_LINES, stream=True, follow=False))
    except ContainerError as error:
        log.warning("%s", error)
        return
    for line in without_secrets(text, container.details).splitlines()[-_LINES:]:
        log.error("%s: %s", container.name, escaped(line))


def _tail(chunks: Any) -> str:
    """The end of what comes, however long a line is; what comes in time, since the client library has no limit for a stream."""
    limit = Timer(_LOG_WITHIN, chunks.close)
    limit.start()
    kept = b""
    try:
        for chunk in chunks:
            kept = (kept + chunk)[-_BYTES:]
    finally:
        limit.cancel()
    return kept.decode("utf-8", "replace")


def without_secrets(text: str, details: Mapping[str, Any]) -> str:
    """A text of a container, without what its environment has and without passwords in addresses."""
    values = {entry.partition("=")[2] for entry in details["Config"].get("Env") or ()}
    for value in sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(value, "***")
    return _CREDENTIALS.sub(r"\1***\2", text)
