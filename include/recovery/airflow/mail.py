"""Mail to people, through Airflow's SMTP notifier."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recovery.airflow.tasks import restore_session
from recovery.common.extras import extra
from recovery.common.units import human_duration
from recovery.common.wording import escaped
from recovery.plan.loader import load_plan
from recovery.plan.model import Mail, Plan
from recovery.runs.journal_steps import Step

log = logging.getLogger(__name__)


def on_failure(plan: Plan, what: str) -> list[Callable[[Any], None]] | None:
    """Callbacks for a failed run of a DAG; none where the plan names no mail."""
    mail = plan.alerts.mail
    if mail is None:
        return None

    def tell(context: Any) -> None:
        run = context["dag_run"].run_id
        body = (
            f"{what} of {plan.plan} failed.\n\nRun: {run}\nReason: {context.get('reason', '')}\nLook at its red tasks: {_page(context)}\n"
        )
        _mail(mail, f"[{plan.plan}] {what} FAILED", body)(context)

    return [tell]


def on_left_out(plan: Plan) -> list[Callable[[Any], None]]:
    """Callbacks for the end of a drill: it succeeds also where a restore of its set would have to leave something out."""

    def tell(context: Any) -> None:
        found = restore_session(plan.plan, context["dag_run"]).left_out(Step.VERIFIED)
        if sentences := [f"{source_id}: {each.sentence}" for source_id, lacking in found.items() for each in lacking]:
            body = "All rows can be restored. These things can't be made again, until their cause is mended at the source:\n\n"
            _try_mail(plan.plan, f"[{plan.plan}] a restore would leave things out", body + "\n".join(sentences) + "\n", context)

    return [tell]


def new_warnings(plan_name: str, set_id: str, found: Mapping[str, Sequence[str]], context: Any) -> None:
    """Tell what a complete set warns of, and the last one did not. A mail that can't be sent must not fail the backup.

    Args:
        plan_name: whose set it is.
        set_id: of the set.
        found: the new warnings by source. They have names of files and tables in them, which may be of several lines.
        context: of the task.
    """
    sentences = [escaped(f"{source_id}: {words}") for source_id, warnings in found.items() for words in warnings]
    body = (
        f"Set {set_id} is complete. The last set did not have these warnings, or could not be read:\n\n"
        + "\n".join(sentences)
        + "\n\nChange at the source what they name, or accept what they say of a restore. No mail comes about those that stay:"
        f" `recovery show` lists all warnings of a set.\n\nSaid by {_page(context)}\n"
    )
    _try_mail(plan_name, f"[{plan_name}] a backup has new warnings", body, context)


def _page(context: Any) -> str:
    """The address of a run in the UI."""
    from airflow.sdk.configuration import conf

    run = context["dag_run"]
    return f"{conf.get('api', 'base_url', fallback='')}/dags/{run.dag_id}/runs/{run.run_id}"


def gate_waits(plan_name: str, gate: str, text: str, context: Any) -> None:
    """Tell the approvers that a gate waits. A mail that can't be sent must not fail the gate, which also shows in the UI.

    The text has names of files and tables in it, and the notifier renders its content as a template: so no brace stays one.
    """
    subject = f"[{plan_name}] restore waits for approval: {gate}"
    _try_mail(plan_name, subject, f"Answer it under Required actions: {_page(context)}\n\n{text}\n", context)


def nobody_accepted(plan: Plan, context: Any) -> None:
    """Raise the alarm that a restored system is in use that nobody accepted."""
    stays = f"It stays in use. The replaced data stays for {human_duration(plan.keep_replaced)}."
    look = f"Look at the system and at the report now; if it is wrong, restore another set: {_page(context)}"
    _try_mail(plan.plan, f"[{plan.plan}] restored system was NOT accepted in time", f"{stays}\n\n{look}\n", context)


def restore_stalled(plan: Plan, words: str, context: Any) -> None:
    """Raise the alarm that a restore, or a cold backup, stands still, perhaps with services down."""
    _try_mail(plan.plan, f"[{plan.plan}] restore or cold backup STANDS STILL", f"{words}\n\nSaid by {_page(context)}\n", context)


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
    with extra("mail", "mail"):
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

    return SmtpNotifier(
        smtp_conn_id=mail.connection,
        from_email=mail.sender,
        to=list(mail.to),
        subject=subject,
        html_content=f"<pre>{html.escape(body).replace('{', '&#123;')}</pre>",
    )
