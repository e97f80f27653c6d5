"""Parsing the DAG folder: without errors, network or heavy imports, whatever the plan folder holds."""

import sys
from pathlib import Path

import pytest

from tests.dags.conftest import PROJECT, RECIPIENT, parse_folder, write_plan

pytestmark = pytest.mark.slow

HEAVY = {"psycopg", "pymongo", "boto3", "botocore", "httpx", "requests", "zstandard", "pandas", "fiftyone", "sqlalchemy.dialects.mysql"}
FAMILIES = ("backup", "drill", "maintenance", "restore")


def ids(*names):
    return {f"{name}_{family}" for name in names for family in FAMILIES}


def test_dag_parsing_builds_the_dags_of_a_plan_without_network(parsed):
    assert parsed.errors == {}
    assert set(parsed.dags) == ids("shop")
    assert parsed.network == []


def test_dag_parsing_imports_no_heavy_package(parsed, plain):
    """Each parse happens in a fresh process: what is imported costs its time again and again."""
    assert HEAVY & {*parsed.modules, *plain.modules} == set()


def test_dag_parsing_opens_only_plans_and_code(plain):
    code = (sys.prefix, sys.base_prefix, str(PROJECT / "dags"), str(PROJECT / "include"), "/proc/", "/usr/", "/etc/", "/dev/")
    opened = [Path(path) for path in plain.opened if not path.startswith(code)]
    assert {path.name for path in opened if path.parent.name != "home"} == {"shop.yaml"}


def test_dag_parsing_of_the_shipped_plan_succeeds(parse):
    parsed = parse(RECOVERY_PLANS="", OPENMANUS_RECIPIENT=RECIPIENT)
    assert parsed.errors == {}
    assert set(parsed.dags) == ids("openmanus")


def test_dag_parsing_of_15_plans_builds_all_dags(plans, parse):
    names = [f"plan_{number}" for number in range(15)]
    for name in names:
        write_plan(plans, name)
    parsed = parse()
    assert parsed.errors == {}
    assert set(parsed.dags) == ids(*names)
    assert HEAVY & set(parsed.modules) == set()


def test_dag_parsing_in_a_task_builds_only_its_own_dag(plans, parse):
    for name in ("shop", "shop_eu", "crm"):
        write_plan(plans, name)
    parsed = parse(_AIRFLOW_PARSING_CONTEXT_DAG_ID="shop_backup", _AIRFLOW_PARSING_CONTEXT_TASK_ID="prepare")
    assert set(parsed.dags) == {"shop_backup"}
    assert parsed.errors == {}


def test_dags_of_two_plans_do_not_mention_each_other(plans, parse):
    write_plan(plans, "shop")
    write_plan(plans, "crm")
    parsed = parse()
    for family in FAMILIES:
        text = str(parsed.dags[f"crm_{family}"])
        assert "shop" not in text
        assert "crm" in text


def test_broken_plans_are_one_import_error_and_the_valid_plan_loads(plans, parse):
    write_plan(plans, "shop")
    broken = write_plan(plans, "crm")
    broken.write_text(broken.read_text().replace("within: 30d", "within: soon").replace("signing:", "singing:"))
    (plans / "other.yml").write_text("plan: [")
    parsed = parse()
    assert set(parsed.dags) == ids("shop")
    ((file, error),) = parsed.errors.items()
    assert Path(file).name == "broken_plans.py"
    assert "crm.yaml: destinations.local.keep_within" in error
    assert "crm.yaml: singing" in error
    assert "other.yml: is not readable YAML" in error


def test_a_dag_that_fails_while_it_is_built_is_one_import_error_and_all_others_load(plans, tmp_path):
    """In a file of its own, since Airflow takes all DAGs of a file that has an import error out of use."""
    for name in ("shop", "crm", "zoo"):
        write_plan(plans, name)
    (tmp_path / "dags").mkdir()
    for file in (PROJECT / "dags").glob("*.py"):
        half_way = ") as dag:\n        assert (plan.plan, dag.dag_id) != ('crm', 'crm_backup'), 'half way'\n"
        (tmp_path / "dags" / file.name).write_text(file.read_text().replace(") as dag:\n", half_way))
    parsed = parse_folder(tmp_path / "home", plans, dags=tmp_path / "dags")
    assert set(parsed.dags) == ids("shop", "crm", "zoo") - {"crm_backup"}
    ((file, error),) = parsed.errors.items()
    assert Path(file).name == "broken_plans.py"
    assert "crm_backup: this DAG can't be built from its plan: AssertionError: half way" in error


def test_dag_parsing_without_plans_gives_no_dags_and_no_errors(parse):
    parsed = parse()
    assert (parsed.dags, parsed.errors) == ({}, {})


def test_missing_plan_folder_is_an_import_error(parse, tmp_path):
    parsed = parse(RECOVERY_PLANS=str(tmp_path / "none"))
    assert parsed.dags == {}
    assert all("There is no plan folder" in error for error in parsed.errors.values())
    assert parsed.errors


def test_dag_processor_reads_only_dag_files(plain):
    read = {Path(path).name for path in plain.opened if path.startswith(str(PROJECT / "dags")) and path.endswith((".py", ".pyc"))}
    assert {name.partition(".")[0] for name in read} == {"backup", "broken_plans", "drill", "maintenance", "restore"}
    assert "__pycache__" in (PROJECT / "dags" / ".airflowignore").read_text()
