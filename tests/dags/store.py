"""Run in a process of its own: let Airflow's DAG processor read the DAG folder once and store it, in a metadata database of its own.

Prints, as JSON, the import errors by file, and the ids of the DAGs that Airflow then has in use.
"""

import json
import subprocess
import sys
from pathlib import Path

from airflow.models.dag import DagModel
from airflow.models.errors import ParseImportError
from airflow.models.serialized_dag import SerializedDagModel
from airflow.utils import db
from airflow.utils.session import create_session
from sqlalchemy import select

db.initdb()
subprocess.run([Path(sys.executable).with_name("airflow"), "dag-processor", "--num-runs", "1"], check=True, stdout=sys.stderr)
with create_session() as session:
    errors = {error.filename: error.stacktrace for error in session.scalars(select(ParseImportError))}
    used = select(DagModel.dag_id).where(~DagModel.is_stale, DagModel.dag_id.in_(select(SerializedDagModel.dag_id)))
    print(json.dumps({"errors": errors, "dags": sorted(session.scalars(used))}))
