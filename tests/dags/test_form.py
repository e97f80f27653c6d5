"""The form of a DAG: stored once, and given to every task with what a person wrote into it."""

import pytest
from airflow.serialization.serialized_objects import DagSerialization

from dags import backup, drill
from recovery.airflow import restore_form
from recovery.plan.loader import read_plan
from tests.dags.conftest import params_of_tasks, write_plan

GIVEN = {
    "shop_backup": {"sources": ["files.uploads"], "note": "before the move", "hold": True},
    "shop_drill": {"destination": "offsite"},
    "shop_maintenance": {"release_holds": "20261123T010000Z-4f2a", "confirm_gap": "20261123T010000Z-4f2a"},
    "shop_restore": {"dry_run": True, "only.postgres.main": ["sales"], "newest_before": "2026-11-23T01:00:00+01:00"},
}
"""What a person writes, by DAG id."""


@pytest.mark.parametrize(("family", "declared"), [("backup", backup.form), ("drill", drill.form), ("restore", restore_form.fields)])
def test_dag_form_is_stored_as_declared(parsed, tmp_path, family, declared):
    fields = declared(read_plan(write_plan(tmp_path)))
    stored = DagSerialization.from_dict(parsed.dags[f"shop_{family}"]).params
    assert [(name, *facts(stored.get_param(name))) for name in stored] == [(name, *facts(field)) for name, field in fields.items()]


def facts(param):
    return param.value, param.description, param.schema


@pytest.mark.parametrize("dag_id", GIVEN)
def test_tasks_have_no_copy_of_the_dag_form(parsed, dag_id):
    """Airflow makes them of a form that is there before the tasks; they are most of a parse, and of what is stored."""
    assert parsed.dags[dag_id]["dag"]["params"]
    assert [task_id for task_id, task in parsed.tasks(dag_id).items() if task.get("params")] == []


def test_every_task_gets_the_form_defaults_and_the_given_parameters(parsed, plans, tmp_path):
    write_plan(plans)
    defaults = {dag_id: {name: field["default"] for name, field in parsed.dags[dag_id]["dag"]["params"]} for dag_id in GIVEN}
    for given in (GIVEN, {dag_id: {} for dag_id in GIVEN}):
        got = params_of_tasks(tmp_path / "home", plans, given)
        for dag_id, written in given.items():
            assert got[dag_id] == dict.fromkeys(parsed.tasks(dag_id), defaults[dag_id] | written)
