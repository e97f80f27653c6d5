"""Run in a process of its own: begin each task of some DAGs as a worker does, and print, as JSON, the params that its function would get.

Argument: what each run is given, by DAG id, as JSON.
"""

import json
import sys
from datetime import UTC, datetime
from uuid import uuid4

import structlog
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import conf
from airflow.sdk.api.datamodels._generated import BundleInfo, DagRun, TaskInstance, TIRunContext
from airflow.sdk.execution_time.comms import StartupDetails
from airflow.sdk.execution_time.task_runner import parse

NOW = datetime.now(UTC)


def begin(dag_id, task_id, given):
    ids = {"dag_id": dag_id, "run_id": "run"}
    nothing = dict.fromkeys(("logical_date", "data_interval_start", "data_interval_end", "end_date", "partition_key"))
    times = {"run_after": NOW, "start_date": NOW}
    run = DagRun(**ids, **times, **nothing, run_type="manual", state="running", conf=given, consumed_asset_events=[])
    told = StartupDetails(
        ti=TaskInstance(**ids, id=uuid4(), task_id=task_id, try_number=1, dag_version_id=uuid4()),
        dag_rel_path=f"{dag_id.rpartition('_')[2]}.py",
        bundle_info=BundleInfo(name="dags-folder"),
        start_date=NOW,
        ti_context=TIRunContext(dag_run=run, max_tries=0),
        sentry_integration="",
    )
    return parse(told, structlog.get_logger()).get_template_context()["params"]


dags = DagBag(conf.get("core", "dags_folder")).dags
runs = json.loads(sys.argv[1])
print(json.dumps({dag_id: {task_id: begin(dag_id, task_id, runs[dag_id]) for task_id in dags[dag_id].task_ids} for dag_id in runs}))
