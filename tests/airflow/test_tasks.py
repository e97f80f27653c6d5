"""Where Airflow's tasks meet this package, without Airflow's processes: stand-ins have what a task's context has."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk import DAG, TaskGroup
from airflow.sdk.exceptions import AirflowFailException, AirflowRescheduleException, AirflowSkipException

from recovery.airflow import tasks
from recovery.common.errors import PlanError, RestoreError, RestoreUnderWay, StagingError
from recovery.restore.session import RestoreSession
from tests.support.restore_driver import run_until, teardown
from tests.support.system import SampleSystem


@pytest.fixture
def system(tmp_path):
    return SampleSystem(tmp_path / "small", "small").backed_up_and_damaged()


def waits(plan, since):
    dag_run = SimpleNamespace(start_date=datetime.now(UTC) - since)

    @tasks.operator_errors
    def prepare():
        with tasks.waiting_for_restores(plan, dag_run):
            raise RestoreUnderWay("A restore is under way.", "Wait.")

    return prepare


def test_backup_waits_for_a_restore_for_half_of_the_rpo_and_then_fails(system):
    plan = system.plan()
    with pytest.raises(AirflowRescheduleException):
        waits(plan, plan.objectives.rpo / 2 - timedelta(minutes=1))()
    with pytest.raises(AirflowFailException, match="A restore is under way"):
        waits(plan, plan.objectives.rpo / 2 + timedelta(minutes=1))()


def test_backup_does_not_wait_for_a_restore_that_stands_still(system):
    dag_run = SimpleNamespace(start_date=datetime.now(UTC))

    @tasks.operator_errors
    def prepare():
        with tasks.waiting_for_restores(system.plan(), dag_run):
            raise RestoreError("It stands still.", "Unpause that DAG.")

    with pytest.raises(AirflowFailException, match="It stands still"):
        prepare()


@pytest.mark.parametrize("conf", [{"note": "a \ud800"}, {"sources": ["\udfff"]}, {"only.files.uploads": ["x", "\udc80"]}, {"\ud800": 1}])
def test_parameters_with_half_a_character_are_refused_in_words_that_can_be_written(conf):
    dag = SimpleNamespace(params={"note": 1, "sources": 1, "only.files.uploads": 1})
    with pytest.raises(PlanError, match="has half of a character") as refused:
        tasks.check_parameters(dag, SimpleNamespace(conf=conf))
    assert str(refused.value).encode()
    tasks.check_parameters(dag, SimpleNamespace(conf={"note": "a \U0001f600", "sources": ["é"]}))
    tasks.check_parameters(dag, SimpleNamespace(conf=None))


def instance(choose_set):
    return SimpleNamespace(dag_id="small_restore", run_id="r", get_task_states=lambda **_: {"r": {"choose_set": choose_set}})


def test_restore_task_is_refused_when_the_journal_is_missing_after_choose_set(system, tmp_path):
    run = system.restore()
    run_until(system, run, "cutover config.settings")
    tasks.refuse_lost(run, instance("success"))
    staging = run.plan.staging.folder
    staging.rename(tmp_path / "moved")
    lost = system.restore()
    with pytest.raises(RestoreError, match="what it has changed is not known") as refused:
        tasks.refuse_lost(lost, instance("success"))
    assert refused.value.retryable
    tasks.refuse_lost(lost, instance("failed"))
    (tmp_path / "moved").rename(staging)
    tasks.refuse_lost(lost, instance("success"))


def test_start_of_services_is_refused_when_the_set_is_missing_after_they_were_stopped(system, tmp_path):
    def run_with(stop_services):
        return SimpleNamespace(
            dag_id="small_backup", run_id="r", get_task_states=lambda **_: {"r": {"stop_services": stop_services} if stop_services else {}}
        )

    staged = system.begin_backup()
    tasks.refuse_lost_set(staged, run_with("success"))
    system.plan().staging.folder.rename(tmp_path / "moved")
    with pytest.raises(StagingError, match="they may be STOPPED") as refused:
        tasks.refuse_lost_set(staged, run_with("success"))
    assert refused.value.retryable
    for other in ("skipped", "upstream_failed", None):
        tasks.refuse_lost_set(staged, run_with(other))


def test_failed_task_of_a_source_is_reported_by_its_whole_task_id(system, monkeypatch):
    run = system.restore()
    run_until(system, run, "gate cutover")
    monkeypatch.setattr(tasks, "restore_session", lambda plan, dag_run: run)

    def fail(session, source):
        raise RestoreError("It fails.", "Nothing.")

    with DAG("small_restore"), TaskGroup("cutover"):
        made = tasks.of_restored_source(fail, "files.uploads", system.plan(), "files.uploads").operator
    with pytest.raises(AirflowFailException, match="It fails"):
        made.python_callable("small", "files.uploads", ti=SimpleNamespace(task_id=made.task_id))
    assert "Nothing live was replaced: cutover.files.uploads failed, its log says why." in teardown(run)


def test_tasks_of_the_cutover_are_skipped_when_the_method_is_beside(system, monkeypatch):
    run = system.restore()
    run_until(system, run, "preflight", system.ask(run, sources=("files.uploads",)))
    monkeypatch.setattr(tasks, "restore_session", lambda plan, dag_run: run)
    monkeypatch.setattr(RestoreSession, "beside", True)
    with DAG("small_restore"):
        staged = tasks.of_restored_source(note, "stage", system.plan(), "files.uploads").operator
        cut_over = tasks.of_restored_source(note, "cutover", system.plan(), "files.uploads", of_cutover=True).operator
        stop = tasks.of_restore(note, "stop_services")("small").operator
    ti = SimpleNamespace(task_id="task")
    assert staged.python_callable("small", "files.uploads", ti=ti) is None
    for skipped in (lambda: cut_over.python_callable("small", "files.uploads", ti=ti), lambda: stop.python_callable("small", None, ti)):
        with pytest.raises(AirflowSkipException, match="nothing is cut over"):
            skipped()


def note(session, source=None):
    """A step that succeeds."""
