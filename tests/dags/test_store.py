"""What the loader takes for a plan, Airflow's DAG processor builds and stores, in a PostgreSQL that knows how long a text may be."""

import re
from functools import partial

import pytest

from recovery.plan.loader import read_plan
from recovery.plan.model import Plan
from tests.dags.conftest import PROJECT, store_folder, write_plan
from tests.dags.test_parse import ids
from tests.support.plan_mutations import ENVIRONMENT, acceptable, mutated

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def store(tmp_path, plans, postgres_server):
    """Store the DAG folder, or a changed copy of it, with the plans that are there now."""
    with postgres_server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS airflow")
        connection.execute("CREATE DATABASE airflow")
    database = f"postgresql+psycopg2://postgres:{postgres_server.password}@127.0.0.1:{postgres_server.port}/airflow"
    patient = {"AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT": "600", "AIRFLOW__DAG_PROCESSOR__DAG_FILE_PROCESSOR_TIMEOUT": "600"}
    return partial(store_folder, tmp_path / "home", plans, database, **patient)


def write_accepted(plans, name, text):
    """A plan with a name of its own, if the loader accepts it."""
    path = plans / f"{name}.yaml"
    path.write_bytes(re.sub(rb"^plan: [\w-]*", f"plan: {name}".encode(), text, count=1, flags=re.MULTILINE))
    if isinstance(read := read_plan(path, ENVIRONMENT), Plan) and read.plan == name:
        return {name}
    path.unlink()
    return set()


@pytest.mark.parametrize(
    ("first", "kept"),
    [
        pytest.param(0, 30, id="a few"),
        *(pytest.param(10_000 * batch, 100, id=f"batch {batch}", marks=pytest.mark.long) for batch in range(1, 5)),
    ],
)
def test_dag_processor_stores_all_dags_of_every_plan_that_the_loader_accepts(plans, store, first, kept):
    names, seed = set(), first
    while len(names) < kept:
        names |= write_accepted(plans, f"m{seed}", mutated(seed))
        names |= write_accepted(plans, f"a{seed}_".ljust(40 if seed % 2 else 0, "x"), acceptable(seed).encode())
        seed += 1
    environment = {name: ENVIRONMENT[name] for name in ("OPENMANUS_RECIPIENT", "EMPTY", "TURN")}
    assert store(PROJECT / "dags", **environment) == ({}, ids(*names))


def test_a_dag_that_cannot_be_stored_is_one_import_error_and_all_others_are_in_use(plans, store, tmp_path):
    """Airflow stores what a file has when it has read it; an error then would take all DAGs of the file out of use."""
    for name in ("shop", "crm", "zoo"):
        write_plan(plans, name)
    (tmp_path / "dags").mkdir()
    for file in (PROJECT / "dags").glob("*.py"):
        strange = "dag.timetable = type('Strange', (type(dag.timetable),), {})('* * * * *', timezone='UTC')"
        changed = file.read_text().replace(") as dag:\n", f") as dag:\n        if dag.dag_id == 'crm_backup': {strange}\n")
        (tmp_path / "dags" / file.name).write_text(changed)
    errors, used = store(tmp_path / "dags")
    assert used == ids("shop", "crm", "zoo") - {"crm_backup"}
    ((file, error),) = errors.items()
    assert file == "broken_plans.py"
    assert "crm_backup: this DAG can't be built from its plan: " in error


def test_dag_file_of_two_lines_keeps_all_dags_in_use_beside_a_broken_plan(plans, store, tmp_path):
    write_plan(plans, "shop")
    broken = write_plan(plans, "crm")
    broken.write_text(broken.read_text().replace("signing:", "singing:"))
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/recovery_plans.py").write_text("from recovery.airflow.dags import make_dags\nglobals().update(make_dags())\n")
    assert store(tmp_path / "dags") == ({}, ids("shop") | {"broken_plans"})
