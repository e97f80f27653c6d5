"""What a DAG file of two lines gives to Airflow, as a parse of it in a process of its own shows."""

import pytest
from airflow.sdk.exceptions import AirflowFailException

from recovery.airflow import dags
from recovery.common.errors import PlanError
from tests.dags.conftest import parse_folder, write_plan

DAG_FILE = """\
from pathlib import Path
from recovery.airflow.dags import make_dags
globals().update(make_dags(Path(__file__).parent / "plans"))
"""
FAMILIES = {"backup", "drill", "maintenance", "restore"}


@pytest.fixture
def parse(tmp_path):
    """Parse a DAG file that makes the DAGs of the folder ``plans`` beside it, and of no other."""
    (tmp_path / "plans").mkdir()
    (tmp_path / "none").mkdir()
    (tmp_path / "two_lines.py").write_text(DAG_FILE)
    return lambda **environment: parse_folder(tmp_path / "home", tmp_path / "none", dags=tmp_path / "two_lines.py", **environment)


@pytest.mark.slow
def test_make_dags_makes_all_dags_of_the_folder_that_it_is_given(parse, tmp_path):
    write_plan(tmp_path / "plans", "shop")
    write_plan(tmp_path / "plans", "crm")
    parsed = parse()
    assert parsed.errors == {}
    assert set(parsed.dags) == {f"{plan}_{family}" for plan in ("shop", "crm") for family in FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("wanted", ["shop_backup", "crm_restore"])
def test_make_dags_in_a_task_builds_only_its_own_dag(parse, tmp_path, wanted):
    write_plan(tmp_path / "plans", "shop")
    write_plan(tmp_path / "plans", "crm")
    (tmp_path / "plans/other.yml").write_text("plan: [")
    assert set(parse(_AIRFLOW_PARSING_CONTEXT_DAG_ID=wanted).dags) == {wanted, dags.BROKEN_PLANS}


@pytest.mark.slow
def test_make_dags_with_a_broken_plan_has_no_import_error_and_a_dag_that_names_it(parse, tmp_path):
    write_plan(tmp_path / "plans", "shop")
    broken = write_plan(tmp_path / "plans", "crm")
    broken.write_text(broken.read_text().replace("signing:", "singing:"))
    parsed = parse()
    assert parsed.errors == {}
    assert set(parsed.dags) == {dags.BROKEN_PLANS, *(f"shop_{family}" for family in FAMILIES)}
    told = parsed.dags[dags.BROKEN_PLANS]["dag"]
    assert "    crm.yaml: singing: is not a key" in told["doc_md"]
    assert told["is_paused_upon_creation"] is False


def test_broken_plans_dag_fails_with_the_reasons(tmp_path, monkeypatch):
    monkeypatch.setenv("RECOVERY_PLANS", str(tmp_path))
    (tmp_path / "crm.yaml").write_text("plan: [")
    (tmp_path / "shop.yaml").write_text("plan: 5")
    (name_them,) = dags.make_dags()[dags.BROKEN_PLANS].tasks
    with pytest.raises(AirflowFailException, match=r"(?s)crm\.yaml: is not readable YAML.*shop\.yaml: plan: .*Mend the plan files"):
        name_them.python_callable()


def test_make_dags_refuses_a_relative_folder():
    with pytest.raises(PlanError, match=r"make_dags was given the plan folder 'plans'"):
        dags.make_dags("plans")


def test_make_dags_refuses_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RECOVERY_PLANS", "/nowhere")
    with pytest.raises(PlanError, match=f"There is no plan folder {tmp_path}/none"):
        dags.make_dags(tmp_path / "none")
