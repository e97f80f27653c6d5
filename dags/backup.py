"""``<plan>_backup``: dump (parallel) > compress > verify > upload > prune, for every plan of the plan folder.

The work is in ``include/recovery/backup``: ``steps.py`` has the steps of one source, ``finalize.py`` and ``upload.py`` those of the
set as a whole, ``hooks.py`` what the plan wants done before and after.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from airflow.sdk import DAG, Asset, Param, TaskGroup, TriggerRule, task

from recovery.airflow import mail, tasks
from recovery.airflow.dags import build_all
from recovery.backup import cold, finalize, hooks, steps
from recovery.backup import upload as backup_upload
from recovery.monitoring import heartbeat as monitoring_heartbeat
from recovery.plan.model import Plan
from recovery.runs.staged_set import RunRecord

dump, compress, verify = map(tasks.of_source, (steps.dump, steps.compress, steps.verify))
upload = tasks.of_destination(backup_upload.upload, TriggerRule.ALL_DONE)  # what is verified is kept, whatever became of the rest
prune = tasks.of_destination(backup_upload.prune, TriggerRule.NONE_FAILED)


@task
@tasks.operator_errors
def prepare(plan: str, params: dict[str, Any], dag: Any, dag_run: Any) -> None:
    tasks.check_parameters(dag, dag_run)
    loaded = tasks.context(plan)
    staged = tasks.staged_set(loaded, dag_run)
    given = {**params, "note": params["note"] or ""}
    asked = RunRecord(plan=plan, set_id=staged.id, run_id=dag_run.run_id, started=datetime.now(UTC), **given)
    with tasks.waiting_for_restores(loaded.plan, dag_run):
        finalize.prepare(loaded, staged, asked)
    if loaded.plan.services.down_at_most and staged.run().mode == "hot":  # as it was when the run began, whatever the plan says now
        tasks.skip_ahead("stop_services", "limit_downtime", "start_services")


@task(trigger_rule=TriggerRule.NONE_FAILED)
@tasks.operator_errors
def finish(plan: str, params: dict[str, Any], dag_run: Any, **context: Any) -> None:
    loaded = tasks.context(plan)
    staged = tasks.staged_set(loaded, dag_run)
    tell = partial(mail.new_warnings, plan, staged.id, context={"dag_run": dag_run, **context})
    tasks.skip_if_false(backup_upload.finish(loaded, staged, params["sources"], tell))


@task
@tasks.operator_errors
def before_backup(plan: str) -> None:
    hooks.before_backup(tasks.context(plan))


@task
@tasks.operator_errors
def stop_services(plan: str, dag_run: Any) -> None:
    loaded = tasks.context(plan)
    tasks.skip_if_false(cold.stop_services(loaded, tasks.staged_set(loaded, dag_run)))


@task
@tasks.operator_errors
def start_services(plan: str, dag_run: Any, ti: Any) -> None:
    loaded = tasks.context(plan)
    staged = tasks.staged_set(loaded, dag_run)
    tasks.refuse_lost_set(staged, ti)
    tasks.skip_if_false(cold.start_services(loaded, staged))


@task
@tasks.operator_errors
def limit_downtime(plan: str, dag_run: Any) -> None:
    loaded = tasks.context(plan)
    if cold.limit_downtime(loaded, tasks.staged_set(loaded, dag_run)):
        tasks.look_again(timedelta(seconds=15))


@task
@tasks.operator_errors
def after_backup(plan: str, params: dict[str, Any], dag_run: Any, ti: Any) -> None:
    loaded = tasks.context(plan)
    failed = tasks.failed_before(ti)
    hooks.after_backup(loaded, tasks.staged_set(loaded, dag_run).id, params["sources"], failed)


@task
@tasks.operator_errors
def heartbeat(plan: str, connection: str, dag_run: Any) -> None:
    loaded = tasks.context(plan)
    staged = tasks.staged_set(loaded, dag_run)
    tasks.skip_if_false(monitoring_heartbeat.send(loaded, connection, staged.id))


def form(plan: Plan) -> dict[str, Param]:
    """What a backup by hand is asked."""
    mode = {"mode": Param(plan.mode, enum=["hot", "cold"], description="cold: services are stopped while the sources are read.")}
    return (mode if plan.services.down_at_most else {}) | {
        "sources": tasks.sources_parameter(plan.source_ids, "Sources to back up. A set without all of them is never the newest valid one."),
        "note": tasks.text_parameter("Why this backup is made; kept with the set.", maxLength=300),
        "hold": Param(False, type="boolean", description="Never prune this set, until the hold is released."),
        "allow_empty": Param(
            False, type="boolean", description="Accept that a source or database is empty or gone since the last valid set."
        ),
    }


def build(plan: Plan) -> DAG:
    """The backup DAG of a plan."""
    with DAG(
        dag_id=f"{plan.plan}_backup",
        description=f"Back up {plan.plan}: {', '.join(plan.source_ids)}",
        doc_md=tasks.documentation("backup", plan),
        schedule=tasks.schedule(plan),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        auto_register=False,  # half a DAG is none
        allowed_run_types=tasks.RUN_TYPES,
        max_active_runs=1,
        default_args=tasks.defaults(plan, retries=plan.retries, queue=plan.queues.backup),
        on_failure_callback=mail.on_failure(plan, "Backup"),
        tags=["recovery", "backup", plan.plan],
    ) as dag:
        begun, read, ready, uploads, prunes = [prepare(plan.plan)], [], [], [], []
        if plan.hooks.before_backup:
            begun.append(begun[-1] >> before_backup(plan.plan))
        if plan.services.down_at_most:
            begun.append(begun[-1] >> stop_services.override(retries=0, outlets=[tasks.to_be_watched(plan)])(plan.plan))
        for source in plan.source_ids:
            with TaskGroup(tasks.group_id(source), tooltip=source):
                ready.append(read_back := verify.override(**tasks.in_queue(plan.queues.decode))(plan.plan, source))
                dumped = dump.override(**tasks.of_dump(plan, source))(plan.plan, source)
                begun >> dumped >> (packed := compress(plan.plan, source)) >> read_back
                read.append(dumped if plan.source(source).snapshot else packed)  # files are read when they are packed
        if plan.services.down_at_most:
            at_once = {"priority_weight": tasks.SERVICES_PRIORITY, "weight_rule": "absolute"}
            retried = {"retries": 3, "retry_delay": timedelta(seconds=10)}
            ready.append(started := start_services.override(**at_once, **retried)(plan.plan).as_teardown(on_failure_fail_dagrun=True))
            read >> started
            begun[-1] >> (limited := limit_downtime.override(**at_once, **retried)(plan.plan))
        for name in plan.destinations:
            uploads.append(sent := upload.override(task_id=f"upload.{name}")(plan.plan, name))
            prunes.append(pruned := prune.override(task_id=f"prune.{name}")(plan.plan, name))
            ready >> sent >> pruned
            ready >> pruned
        done = finish.override(outlets=[Asset(f"x-recovery://{plan.plan}/complete-set")])(plan.plan)
        [*ready, *uploads, *([limited] if plan.services.down_at_most else [])] >> done
        last = [*uploads, *prunes, done]
        if plan.alerts.heartbeat:
            last.append(done >> heartbeat(plan.plan, plan.alerts.heartbeat))
        # A teardown runs whatever happened; the last one decides for the run. Airflow lets a run with any that was marked as failed end
        # by its last tasks: they are skipped, and it would be a success.
        if plan.hooks.after_backup or plan.hooks.after_failed_backup or plan.services.down_at_most:
            last >> after_backup(plan.plan).as_teardown(on_failure_fail_dagrun=True)
    return tasks.with_form(dag, form(plan))


dags, faults = build_all("backup", build)
globals().update(dags)  # where Airflow finds them
