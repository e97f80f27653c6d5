"""The DAG folder parsed as the DAG processor does it, in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyrage
import pytest

PROJECT = Path(__file__).parent.parent.parent
RECIPIENT = str(pyrage.x25519.Identity.generate().to_public())

_PLAN = """\
plan: {name}
owner: ops-{name}
schedule: "30 2 * * *"
timezone: Europe/Berlin
sources:
  postgres: {{main: {{connection: {name}_postgres}}}}
  mongo: {{documents: {{connection: {name}_mongo}}}}
  files: {{uploads: {{path: /srv/{name}/files}}}}
  config: {{settings: {{paths: [/srv/{name}/.env]}}}}
encryption: {{recipients: [{recipient}], identity: {name}_identity}}
signing: {name}_signing
destinations:
  local: {{folder: /backups/{name}, keep_within: 30d}}
  offsite: {{s3: {{connection: backup_s3, bucket: backups}}, keep_last: 14}}
approvals: {{approvers: [{{id: alice, name: Alice}}, {{id: bob, name: Bob}}]}}
staging: {{folder: /staging}}
{more}"""

MAIL = "{connection: mail, to: [oncall@example.org], sender: recovery@example.org}"


def write_plan(folder: Path, name="shop", more="") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(_PLAN.format(name=name, recipient=RECIPIENT, more=more))
    return path


@dataclass
class Parsed:
    """What a parse of the DAG folder gave, serialized as Airflow stores it."""

    errors: dict[str, str]
    dags: dict[str, dict[str, Any]]
    modules: list[str]
    network: list[str]
    opened: list[str]

    def tasks(self, dag_id):
        """Task facts by task id, defaults filled in."""
        dag = self.dags[dag_id]["dag"]
        shared = dag["default_args"]["__var"]
        found = {}
        for wrapped in dag["tasks"]:
            task = wrapped["__var"]
            found[task["task_id"]] = {"retries": 0, "trigger_rule": "all_success", "downstream_task_ids": []} | shared | task
        return found

    def edges(self, dag_id):
        return {(up, down) for up, task in self.tasks(dag_id).items() for down in task["downstream_task_ids"]}


def parse_folder(home: Path, plans: Path, *, dags: Path = PROJECT / "dags", **environment: str) -> Parsed:
    """Parse the DAG folder, or a changed copy of it, with the plans of a folder."""
    return Parsed(**json.loads(_last_line(home, plans, environment, "parse.py", dags)))


def store_folder(home: Path, plans: Path, database: str, dags: Path, **environment: str) -> tuple[dict[str, str], set[str]]:
    """What Airflow's DAG processor makes of a DAG folder, in an empty metadata database: import errors by file, ids of DAGs in use."""
    settings = {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database, "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    found = json.loads(_last_line(home, plans, settings | environment, "store.py"))
    return found["errors"], set(found["dags"])


def params_of_tasks(home: Path, plans: Path, given: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """The params that each task's function would get, by DAG and task id, of runs that are given something."""
    return json.loads(_last_line(home, plans, {}, "begin.py", json.dumps(given)))


def _last_line(home: Path, plans: Path, environment: dict[str, str], script: str, *arguments: str | Path) -> str:
    """What a script of this folder prints last, in a process that an Airflow of its own would start."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "_AIRFLOW", "RECOVERY"))}
    settings = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": str(PROJECT / "include"),
        "RECOVERY_PLANS": str(plans),
    }
    argv = [sys.executable, PROJECT / "tests/dags" / script, *arguments]
    done = subprocess.run(argv, env=inherited | settings | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="session")
def plain(tmp_path_factory):
    """One plan without mail, but with a ping, and Connections whose secrets are in the environment."""
    folder = tmp_path_factory.mktemp("plain")
    (folder / "plans").mkdir()
    write_plan(folder / "plans", more="alerts: {heartbeat: dead_man}\n")
    ids = ("SHOP_POSTGRES", "SHOP_MONGO", "SHOP_IDENTITY", "SHOP_SIGNING", "BACKUP_S3", "DEAD_MAN")
    secrets = {f"AIRFLOW_CONN_{name}": json.dumps({"conn_type": "generic", "password": "very-secret"}) for name in ids}
    return parse_folder(folder / "home", folder / "plans", **secrets)


@pytest.fixture(scope="session")
def parsed(tmp_path_factory):
    """One plan with mail and settings of its own."""
    folder = tmp_path_factory.mktemp("policy")
    (folder / "plans").mkdir()
    write_plan(folder / "plans", more=f"alerts: {{mail: {MAIL}}}\nretries: 4\nretry_delay: 90s\ntimeout: 3h\n")
    return parse_folder(folder / "home", folder / "plans")


@pytest.fixture
def plans(tmp_path):
    folder = tmp_path / "plans"
    folder.mkdir()
    return folder


@pytest.fixture
def parse(tmp_path, plans):
    """Parse the DAG folder with the plans that are there now."""
    return partial(parse_folder, tmp_path / "home", plans)
