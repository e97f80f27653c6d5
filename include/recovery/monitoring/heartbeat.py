"""The heartbeat: a call after every complete backup, so that somebody outside notices when none comes."""

from __future__ import annotations

import logging

from recovery.backup.stored import manifests, not_stored
from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable, DestinationError
from recovery.common.units import human_duration, now
from recovery.runs.context import PlanContext
from recovery.sets.manifest import Manifest

log = logging.getLogger(__name__)

_PING_SECONDS = 20


def send(context: PlanContext, address: str, set_id: str) -> bool:
    """Call a heartbeat address for a backup of now that every destination has, whatever became of tasks.

    Args:
        context: the plan whose backup it is.
        address: the Connection to call.
        set_id: the backup's set.

    Returns:
        False if the backup is older than the RPO: whoever waits for the call would take it for a new one.

    Raises:
        DestinationError: if a destination does not have all of the set.
        ConnectionUnusable: if the address does not answer with success.
    """
    plan, found = context.plan, manifests(context, set_id)
    if lacking := not_stored(found, set_id, plan.source_ids):
        raise DestinationError(" ".join(lacking.values()), "Nobody was told that the backup succeeded. Clear the upload there.")
    if any(now() - manifest.begins > plan.objectives.rpo for manifest in found.values() if isinstance(manifest, Manifest)):
        log.warning("set %s is older than the RPO of %s: nobody is told", set_id, human_duration(plan.objectives.rpo))
        return False
    ping(context.endpoint(address))
    return True


def ping(endpoint: Endpoint) -> None:
    """Call a heartbeat address once.

    Raises:
        ConnectionUnusable: if it does not answer with success; it may a moment later.
    """
    import httpx

    scheme = endpoint.schema or "https"
    host = endpoint.host if "://" in endpoint.host else f"{scheme}://{endpoint.host}"
    url = f"{host}:{endpoint.port}" if endpoint.port else host
    path = endpoint.extra.get("path", "")
    try:
        httpx.get(f"{url}{path}", timeout=_PING_SECONDS).raise_for_status()
    except httpx.HTTPError as error:
        raise ConnectionUnusable(
            f"The heartbeat address of {endpoint.id} did not take the heartbeat: {type(error).__name__}.",
            "Check the Connection and the service behind it.",
            retryable=True,
        ) from None
    log.info("told %s that the backup succeeded", endpoint.id)
