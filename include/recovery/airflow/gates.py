"""The gate: a task that waits for a named person, and turns their answer into a signed approval."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskAwaitingInput
from airflow.sdk.execution_time.hitl import HITLUser

from recovery.airflow import mail
from recovery.airflow.tasks import in_queue, operator_errors, restore_session, skip_without_cutover
from recovery.common.errors import ApprovalError
from recovery.common.units import human_duration, now, plain_markdown
from recovery.plan.field_types import Gate as GateName
from recovery.plan.model import Approver, Plan
from recovery.restore import answers, state
from recovery.restore.gate_texts import gate_text, headline
from recovery.restore.session import RestoreSession

log = logging.getLogger(__name__)

_ASK_AGAIN = timedelta(seconds=5)
_TRIES = 4
"""How often a gate tries to ask at all; after a failure of its own that may pass."""
_FIRST_LOOK = timedelta(minutes=1)
"""After so long a gate looks whether Airflow has an answer that it did not pass on; then each time when it has waited twice as long."""


class Gate(ApprovalOperator):
    """Shows what is about to happen, and waits for an approver who is not who asked for it.

    Args:
        plan: whose restore it is.
        gate: ``plan``, ``cutover`` or ``accept``.
    """

    template_fields: Sequence[str] = ("subject",)

    def __init__(self, *, plan: Plan, gate: GateName, **kwargs: Any) -> None:
        super().__init__(
            subject=f"Gate {gate} of {plan.plan}",
            body="",
            response_timeout=plan.approvals.timeout,
            retries=_TRIES + plan.approvals.timeout // _ASK_AGAIN,  # as often as it takes: what ends is the time
            retry_delay=_ASK_AGAIN,
            retry_exponential_backoff=1,
            **in_queue(plan.queues.approve),
            **kwargs,
        )
        self.plan_name = plan.plan
        self.gate = gate
        self.approvers = plan.approvals.approvers

    def execute(self, context: Any) -> Any:
        """Ask; again, if Airflow lost an answer, or checks began again meanwhile. The time to answer runs from the first time.

        Airflow's scheduler loses an answer that comes before it has seen that the process of this task has ended, and takes the
        task, which the answer has queued again under the same number, for one that was killed: see ``process_executor_events``.
        """
        session = operator_errors(restore_session)(self.plan_name, context["dag_run"])
        since = operator_errors(answers.asking_since)(session, self.gate)
        if since and (left := session.plan.approvals.timeout - (now() - since)) <= timedelta():
            return operator_errors(self._unanswered)(session, context)
        try:
            operator_errors(self._prepare)(session)
        except (AirflowFailException, AirflowSkipException):
            raise
        except AirflowException as error:
            if context["ti"].try_number - answers.times_asked(session, self.gate) >= _TRIES:
                raise AirflowFailException(str(error)) from None
            raise
        self.response_timeout = min(_FIRST_LOOK, left if since else session.plan.approvals.timeout)
        mail.gate_waits(self.plan_name, self.gate, self.body or "", context)
        return super().execute(context)

    def _prepare(self, session: RestoreSession) -> None:
        """Say what is asked, and keep it.

        Raises:
            AirflowSkipException: if nothing is to be asked.
            RecoveryError: if nobody may answer, or as :func:`recovery.restore.answers.show`.
        """
        if self.gate == "accept" and not state.in_use(session):
            raise AirflowSkipException("The restored system was not handed over, so there is nothing to accept.")
        if self.gate != "plan":
            skip_without_cutover(session)
        if self.gate not in session.gates:
            raise AirflowSkipException(f"A restore to {session.target.name} has no gate {self.gate!r}, or this is a dry run.")
        requester = session.request().requester
        approvers = [approver for approver in self.approvers if not approver.may_be(requester)]
        if not approvers:
            raise ApprovalError(
                f"The plan has no approver but {requester}, who asked for this restore, so nobody may answer the gate {self.gate!r}.",
                "Add an approver to the plan, then trigger a new restore.",
            )
        self.subject = f"{headline(session, self.gate)} {self.plan_name}, set {session.manifest().set_id}"
        self.assigned_users = _assigned(approvers)
        names = plain_markdown(", ".join(approver.name for approver in approvers))
        self.body = f"{gate_text(session, self.gate)}\n\nAn answer counts if it comes from: {names}"
        answers.show(session, self.gate, self.body)
        log.info("%s\n\n%s", self.subject, self.body)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        """Make an approval of a yes; end with a failure after a no, or after no answer, which at the last gate keeps the system.

        An answer of somebody else counts as none: the gate asks again.

        Airflow keeps an answer and does not pass it on, if that comes in the moment in which this task begins to wait: see
        ``update_hitl_detail``, which reads the state of the task before it locks it. It passes on what it has once the task has waited
        for as long as it wanted, or wants to wait again. So the task wants to wait for a part of its time only.
        """
        session = operator_errors(restore_session)(self.plan_name, context["dag_run"])
        if event.get("error_type") == "timeout":
            operator_errors(self._wait_on)(session)
            return operator_errors(self._unanswered)(session, context)
        answer = super(ApprovalOperator, self).execute_complete(context, event)
        who = answer["responded_by_user"] or {}
        person, user_id = str(who.get("name", "")), str(who.get("id", ""))
        if answer["chosen_options"] != [self.APPROVE]:
            operator_errors(answers.reject)(session, self.gate, person, user_id)
            raise AirflowFailException(f"{person} rejected the gate {self.gate!r}.")
        operator_errors(answers.approve)(session, self.gate, person, user_id)
        log.info("%s approved", person)
        return answer

    def _wait_on(self, session: RestoreSession) -> None:
        """Wait again, as long as there is time to answer.

        Raises:
            TaskAwaitingInput: for that.
            AirflowException: to ask again, if checks began again.
        """
        if (since := answers.asking_since(session, self.gate)) is None:
            raise AirflowException("Checks began again since this gate was shown: it asks again.")
        waited = now() - since
        if (left := session.plan.approvals.timeout - waited) > timedelta():
            log.info("no answer yet; %s are left", human_duration(left))
            raise TaskAwaitingInput(method_name="execute_complete", timeout=min(left, max(waited, _FIRST_LOOK)))

    def _unanswered(self, session: Any, context: Any) -> None:
        answers.reject(session, self.gate, None)
        if self.gate != "accept":
            raise AirflowFailException(f"Nobody answered the gate {self.gate!r} in time; that is a rejection.")
        log.error(
            "Nobody accepted the restored system in time. It stays in use. The replaced data stays for %s.",
            human_duration(session.plan.keep_replaced),
        )
        mail.nobody_accepted(session.plan, context)


def _assigned(approvers: Sequence[Approver]) -> list[HITLUser]:
    """Those whom alone Airflow lets answer. It compares ids, so without the ids of all it lets everybody answer who may run the DAG."""
    known = [HITLUser(id=approver.id, name=approver.name) for approver in approvers if approver.id]
    return known if len(known) == len(approvers) else []
