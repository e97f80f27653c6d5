"""Telling people: mail through Airflow's SMTP notifier, and the ping that somebody outside waits for."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from typing import Any

from recovery.backup.stored import manifests, not_stored
from recovery.common.connections import Connect, Endpoint
from recovery.common.errors import ConnectionUnusable, DestinationError
from recovery.common.units import human_duration, now
from recovery.plan.loader import load_plan
from recovery.plan.model import Mail, Plan
from recovery.sets.manifest import Manifest

log = logging.getLogger(__name__)

_PING_SECONDS = 20


def on_failure(plan: Plan, what: str) -> list[Callable[[Any], None]] | None:
    """Callbacks for a failed run of a DAG; none where the plan names no mail."""
    mail = plan.alerts.mail
    if mail is None:
        return None

    def tell(context: Any) -> None:
        from airflow.sdk.configuration import conf

        run = context["dag_run"]
        page = f"{conf.get('api', 'base_url', fallback='')}/dags/{run.dag_id}/runs/{run.run_id}"
        body = f"{what} of {plan.plan} failed.\n\nRun: {run.run_id}\nReason: {context.get('reason', '')}\nLook at its red tasks: {page}\n"
        _mail(mail, f"[{plan.plan}] {what} FAILED", body)(context)

    return [tell]


def tell_success(plan: Plan, address: str, set_id: str, connect: Connect) -> bool:
    """Call a dead-man address for a backup of now that every destination has, whatever became of tasks.

    Args:
        plan: whose backup it is.
        address: the Connection to call.
        set_id: the backup's set.
        connect: finds Connections.

    Returns:
        False if the backup is older than the RPO: whoever waits for the call would take it for a new one.

    Raises:
        DestinationError: if a destination does not have all of the set.
        ConnectionUnusable: if the address does not answer with success.
    """
    found = manifests(plan, set_id, connect)
    if lacking := not_stored(found, set_id, plan.source_ids):
        raise DestinationError(" ".join(lacking.values()), "Nobody was told that the backup succeeded. Clear the upload there.")
    if any(now() - manifest.begins > plan.objectives.rpo for manifest in found.values() if isinstance(manifest, Manifest)):
        log.warning("set %s is older than the RPO of %s: nobody is told", set_id, human_duration(plan.objectives.rpo))
        return False
    ping(connect(address))
    return True


def ping(endpoint: Endpoint) -> None:
    """Call a dead-man address once.

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
            f"The dead-man address of {endpoint.id} did not take the ping: {type(error).__name__}.",
            "Check the Connection and the service behind it.",
            retryable=True,
        ) from None
    log.info("told %s that the backup succeeded", endpoint.id)


def gate_waits(plan_name: str, gate: str, text: str, context: Any) -> None:
    """Tell the approvers that a gate waits. A mail that can't be sent must not fail the gate, which also shows in the UI.

    The text has names of files and tables in it, and the notifier renders its content as a template: so no brace stays one.
    """
    subject = f"[{plan_name}] restore waits for approval: {gate}"
    _try_mail(plan_name, subject, f"Answer it under Required actions.\n\n{text}\n", context)


def nobody_accepted(plan_name: str, context: Any) -> None:
    """Raise the alarm that a restored system is in use that nobody accepted."""
    _try_mail(plan_name, f"[{plan_name}] restored system was NOT accepted in time", "It stays in use; the old copies stay too.\n", context)


def _try_mail(plan_name: str, subject: str, body: str, context: Any) -> None:
    plan = load_plan(plan_name)
    if plan.alerts.mail is None:
        return
    try:
        _mail(plan.alerts.mail, subject, body)(context)
    except Exception:
        log.exception("the mail %r could not be sent; nobody was told", subject)


def _mail(mail: Mail, subject: str, body: str) -> Any:
    """A notifier that sends a text as it is: the notifier renders its content as a template, so no brace stays one."""
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return SmtpNotifier(
        smtp_conn_id=mail.connection,
        from_email=mail.sender,
        to=list(mail.to),
        subject=subject,
        html_content=f"<pre>{html.escape(body).replace('{', '&#123;')}</pre>",
    )
