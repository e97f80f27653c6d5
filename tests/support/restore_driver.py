"""Drives the steps of a restore in order, as Airflow does, and says what they left."""

import contextlib
import math
from datetime import UTC, datetime, timedelta

import pytest

from recovery.common import aging
from recovery.common.errors import RecoveryError, RestoreError
from recovery.maintenance import replaced_copies
from recovery.restore import answers, choose_set, gate_texts, preflight, rollback, safety_backup
from recovery.restore import steps as restore_steps
from recovery.restore.report import write


def show_gate(run, gate):
    """Show a gate, if the target has it, and answer nothing."""
    if gate in run.gates:
        answers.show(run, gate, gate_texts.gate_text(run, gate))


def approve_gate(run, gate, person="alice"):
    """Show a gate, if the target has it, and let an approver approve it."""
    show_gate(run, gate)
    if gate in run.gates:
        answers.approve(run, gate, person)


def steps(system, run, request=None):
    """Every task of a restore in order, as ``(name, function)``; the gates are answered by alice."""
    request = request or system.ask(run)
    sources = [source_id for source_id in run.plan.source_ids if source_id in request.sources]
    yield "choose", lambda: choose_set.choose(run, request)
    yield "preflight", lambda: preflight.preflight(run)
    if request.dry_run:
        return
    yield "gate plan", lambda: approve_gate(run, "plan")
    for source_id in sources:
        yield f"stage {source_id}", lambda source_id=source_id: restore_steps.stage(run, source_id)
        yield f"verify {source_id}", lambda source_id=source_id: restore_steps.verify(run, source_id)
    yield "gate cutover", lambda: approve_gate(run, "cutover")
    yield "stop services", lambda: restore_steps.stop_services(run)
    yield "safety", lambda: safety_backup.back_up_live(run)
    for source_id in sources:
        yield f"cutover {source_id}", lambda source_id=source_id: restore_steps.cut_over(run, source_id)
    yield "start services", lambda: restore_steps.start_services(run)
    yield "check", lambda: restore_steps.check_system(run)
    yield "gate accept", lambda: approve_gate(run, "accept")
    yield "finalize", lambda: rollback.finalize(run)


def run_until(system, run, until="finalize", request=None):
    """Take the steps up to one, including it."""
    for name, step in steps(system, run, request):
        step()
        if name == until:
            return
    assert until == "finalize", f"there is no step {until}"


def teardown(run):
    """The teardowns, as Airflow runs them whatever happened; why the restore failed, empty if it did not."""
    faults = []
    for step in (rollback.roll_back, rollback.discard):
        try:
            step(run)
        except Exception as error:  # noqa: BLE001
            faults.append(f"{step.__name__}: {error}")
    try:
        write.finish(run)
    except Exception as error:  # noqa: BLE001
        faults.append(str(error))
    return "\n".join(faults)


def maintain_on(system, monkeypatch, day):
    """Maintenance of a plan by a clock that is so many days ahead."""
    moment = datetime.now(UTC) + timedelta(days=day)
    monkeypatch.setattr(aging, "now", lambda: moment)
    replaced_copies.drop_old_copies(system.context())


def maintain_daily(system, monkeypatch, days=8):
    """Maintenance once a day, for so many days; a fault of the last day is raised, as those of the days before it are the same."""
    for day in range(1, math.ceil(days)):
        with contextlib.suppress(RecoveryError):
            maintain_on(system, monkeypatch, day)
    maintain_on(system, monkeypatch, days)


def journal_steps(run):
    """The journal's steps, for messages."""
    return [f"{entry.step} {entry.source}".strip() for entry in run.journal.everything()]


def refused_by_preflight(run, request):
    """What the preflight of a restore that must fail refuses, in words; the run is over then."""
    choose_set.choose(run, request)
    with pytest.raises(RestoreError, match="The restore would fail") as words:
        preflight.preflight(run)
    teardown(run)
    return str(words.value)


def assert_unchanged(system, run):
    """Nothing live has changed since ``system.before``, nothing is left over, and the services run."""
    assert system.fingerprint() == system.before, journal_steps(run)
    assert system.leftovers() == [], journal_steps(run)
    assert all(system.services.values()), system.service_calls
