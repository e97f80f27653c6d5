"""What must hold for every DAG, and the graphs exactly as they were designed."""

import json
from itertools import pairwise

import pytest

from tests.dags.conftest import PROJECT, parse_folder, write_plan

pytestmark = pytest.mark.slow

SOURCES = ["config.settings", "postgres.main", "mongo.documents", "files.uploads"]
GROUPS = [name.replace(".", "_") for name in SOURCES]
GATES = ["approve_plan", "approve_cutover", "accept"]
DESTINATIONS = ["local", "offsite"]
DAGS = ["shop_backup", "shop_drill", "shop_maintenance", "shop_restore"]
TEARDOWNS = ["roll_back", "discard", "report"]
CHANGING = ["stop_services", *(f"cutover.{name}" for name in SOURCES), "start_services", "check_system", "finalize", *TEARDOWNS]


def test_drill_docs_name_only_destinations_of_drills(tmp_path):
    (tmp_path / "plans").mkdir()
    write_plan(tmp_path / "plans", more="drill: {destinations: [offsite]}\nkeep_replaced: 36h\n")
    dags = parse_folder(tmp_path / "home", tmp_path / "plans").dags
    assert "from the destinations `offsite` in turn" in dags["shop_drill"]["dag"]["doc_md"]
    assert dags["shop_maintenance"]["dag"]["description"].endswith("after 1 d 12 h; watch restores")


@pytest.mark.parametrize("dag_id", DAGS)
def test_every_dag_has_tags_docs_owner_and_run_limits(parsed, dag_id):
    dag = parsed.dags[dag_id]["dag"]
    assert set(dag["tags"]) == {"recovery", dag_id.removeprefix("shop_"), "shop"}
    assert dag["catchup"] is False
    assert sorted(dag["allowed_run_types"]) == ["asset_triggered", "manual", "operator_triggered", "scheduled"]  # no backfill
    assert dag["max_active_runs"] == (8 if dag_id in {"shop_restore", "shop_maintenance"} else 1)
    assert dag["start_date"] == 1767225600.0  # 2026-01-01 in UTC: static
    assert dag["timezone"] == "UTC"
    assert len(dag["doc_md"]) > 150
    assert "shop" in dag["doc_md"]
    assert "{" not in dag["doc_md"]
    assert "shop" in dag["description"]
    assert dag.get("has_on_failure_callback") is True
    assert dag.get("dagrun_timeout") is None  # it would skip teardowns and report while a gate waits
    for task in parsed.tasks(dag_id).values():
        assert task["owner"] == "ops-shop"
        assert task["execution_timeout"] in (3 * 3600.0, {"__var": 3 * 3600.0, "__type": "timedelta"})


def test_dags_of_a_plan_without_mail_have_no_failure_callback(plain):
    for dag in plain.dags.values():
        assert not dag["dag"].get("has_on_failure_callback")


def test_backup_schedule_is_in_the_timezone_of_the_plan(parsed):
    assert "Europe/Berlin" in json.dumps(parsed.dags["shop_backup"]["dag"]["timetable"])
    assert "30 2 * * *" in json.dumps(parsed.dags["shop_backup"]["dag"]["timetable"])
    assert "NullTimetable" in json.dumps(parsed.dags["shop_restore"]["dag"]["timetable"])


def test_backup_tasks_gates_and_rollback_are_retried_and_other_restore_tasks_are_not(parsed):
    for task_id, task in parsed.tasks("shop_backup").items():
        assert (task_id, task["retries"]) == (task_id, 4)
    retries = {task_id: task["retries"] for task_id, task in parsed.tasks("shop_restore").items()}
    for gate in GATES:  # asks again where Airflow lost an answer, until its time has passed
        task = parsed.tasks("shop_restore")[gate]
        assert retries.pop(gate) * task["retry_delay"] >= 12 * 3600
        assert (task["retry_delay"], task["retry_exponential_backoff"]) == (5, 1)
    assert {retries.pop(name) for name in ("roll_back", "discard")} == {3}  # a worker may die during the rollback, too
    assert set(retries.values()) == {0}


def test_dag_parameters_have_choices_descriptions_and_non_empty_defaults(parsed):
    for dag_id in ("shop_backup", "shop_drill", "shop_restore"):
        params = dict(parsed.dags[dag_id]["dag"]["params"])
        schema = params["sources"]["schema"]["__var"]
        assert params["sources"]["default"] == SOURCES
        assert schema["items"]["__var"]["enum"] == SOURCES
        assert (schema["uniqueItems"], schema["minItems"]) == (True, 1)
        assert all(param["description"] for param in params.values())
    assert set(params) == {
        "set", "newest_before", "sources", "target", "method", "config", "dry_run", "compare", "allow_stale", "overwrite",
        *(f"only.{name}" for name in SOURCES),
    }  # fmt: skip
    assert params["target"]["default"] == "live"
    for dag_id, each in parsed.dags.items():
        for name, param in each["dag"]["params"]:
            assert param["default"] != "", f"the UI takes no empty text in {name} of {dag_id}: its button would be dead"
    assert {name for name, _ in parsed.dags["shop_backup"]["dag"]["params"]} == {"sources", "note", "hold", "allow_empty"}


def test_serialized_dags_contain_no_secret(plain):
    assert "shop_postgres" not in json.dumps(plain.dags)
    assert "very-secret" not in json.dumps(plain.dags)


# Graphs -------------------------------------------------------------------------------------------------------------


def test_backup_dag_has_the_designed_graph(parsed):
    expected = set()
    for group in GROUPS:
        expected |= {("prepare", f"{group}.dump"), (f"{group}.dump", f"{group}.compress"), (f"{group}.compress", f"{group}.verify")}
        expected |= {(f"{group}.verify", f"{step}.{name}") for step in ("upload", "prune") for name in DESTINATIONS}
        expected.add((f"{group}.verify", "finish"))
    for name in DESTINATIONS:
        expected |= {(f"upload.{name}", f"prune.{name}"), (f"upload.{name}", "finish")}
    assert parsed.edges("shop_backup") == expected
    rules = {task_id: task["trigger_rule"] for task_id, task in parsed.tasks("shop_backup").items()}
    assert {rules.pop(f"upload.{name}") for name in DESTINATIONS} == {"all_done"}
    assert {rules.pop(task_id) for task_id in ("prune.local", "prune.offsite", "finish", *(f"{group}.dump" for group in GROUPS))} == {
        "none_failed"
    }
    assert set(rules.values()) == {"all_success"}
    assert not any(task.get("is_teardown") or task.get("is_setup") for task in parsed.tasks("shop_backup").values())


def test_backup_finish_task_emits_the_asset_event(parsed):
    outlets = {task_id: task["outlets"] for task_id, task in parsed.tasks("shop_backup").items() if task.get("outlets")}
    assert list(outlets) == ["finish"]
    assert "shop" in json.dumps(outlets["finish"])


def test_restore_that_begins_starts_the_maintenance_of_its_plan(parsed):
    outlets = {task_id: task["outlets"] for task_id, task in parsed.tasks("shop_restore").items() if task.get("outlets")}
    assert list(outlets) == ["preflight"]
    timetable = json.dumps(parsed.dags["shop_maintenance"]["dag"]["timetable"])
    for stored in (json.dumps(outlets), timetable):
        assert "x-recovery://shop/to-be-watched" in stored
    assert "@daily" in timetable or "0 0 * * *" in timetable


def test_maintenance_tasks_wait_for_no_other_and_replaced_data_is_dropped_by_one_run_at_a_time(parsed):
    assert parsed.edges("shop_maintenance") == set()
    tasks = parsed.tasks("shop_maintenance")
    assert set(tasks) == {"drop_replaced_data", "release_holds", "confirm_gap", "watch_restores", "watch_runs"}
    assert tasks["drop_replaced_data"]["max_active_tis_per_dag"] == 1


def test_heartbeat_task_runs_after_finish_succeeded(plain):
    assert plain.tasks("shop_backup")["heartbeat"]["trigger_rule"] == "all_success"
    assert {edge for edge in plain.edges("shop_backup") if "heartbeat" in edge} == {("finish", "heartbeat")}


def test_backup_dag_has_hook_tasks_when_the_plan_has_hooks(plans, parse, plain):
    """With the heartbeat, as ``plain`` has it: the rest of the graph stays as it is without hooks."""
    hooks = "hooks: {before_backup: [{argv: ['true']}], after_failed_backup: [{argv: ['true']}]}\n"
    write_plan(plans, more=f"alerts: {{heartbeat: dead_man}}\n{hooks}")
    hooked = parse()
    first = {("prepare", "before_backup"), *(("before_backup", f"{group}.dump") for group in GROUPS)}
    last = {(f"{step}.{name}", "after_backup") for step in ("upload", "prune") for name in DESTINATIONS}
    last |= {("finish", "after_backup"), ("heartbeat", "after_backup")}
    without = plain.edges("shop_backup")
    assert hooked.edges("shop_backup") - without == first | last
    assert without <= hooked.edges("shop_backup")
    tasks = hooked.tasks("shop_backup")
    assert [task_id for task_id, task in tasks.items() if task.get("is_teardown")] == ["after_backup"]
    assert tasks["after_backup"]["on_failure_fail_dagrun"] is True


def test_backup_dag_stops_services_around_the_reading_of_sources_when_the_plan_has_them(plans, parse, parsed):
    write_plan(plans, more="services: {stop: [['true']], start: [['true']], down_at_most: 5m}\n")
    cold = parse()
    without = parsed.edges("shop_backup")
    read = {f"{group}.{'dump' if group.startswith(('postgres', 'mongo')) else 'compress'}" for group in GROUPS}
    last = {("start_services", f"{step}.{name}") for step in ("upload", "prune") for name in DESTINATIONS} | {("start_services", "finish")}
    last |= {
        (task_id, "after_backup") for task_id in ("finish", *(f"{step}.{name}" for step in ("upload", "prune") for name in DESTINATIONS))
    }
    assert cold.edges("shop_backup") - without == {
        ("prepare", "stop_services"),
        ("stop_services", "limit_downtime"),
        ("limit_downtime", "finish"),
        *(("stop_services", f"{group}.dump") for group in GROUPS),
        *((task_id, "start_services") for task_id in read),
        *last,
    }
    tasks = cold.tasks("shop_backup")
    teardowns = [task_id for task_id, task in tasks.items() if task.get("is_teardown")]
    assert teardowns == ["start_services", "after_backup"], "without the last one, a run that was marked as failed would end as success"
    assert all(tasks[task_id]["on_failure_fail_dagrun"] is True for task_id in teardowns)
    assert "x-recovery://shop/to-be-watched" in json.dumps(tasks["stop_services"]["outlets"])
    [stop] = [task["__var"] for task in cold.dags["shop_backup"]["dag"]["tasks"] if task["__var"]["task_id"] == "stop_services"]
    assert "retries" not in stop, "Airflow stores no 0; until it is tried again, services would be half down, and no limit counts"
    for task_id in ("start_services", "limit_downtime"):
        task = tasks[task_id]
        assert (task["retries"], task["retry_delay"], task["weight_rule"]) == (3, 10.0, "absolute")
        assert task["priority_weight"] > 1000, "it must not wait until others are packed"
    modes = dict(cold.dags["shop_backup"]["dag"]["params"])["mode"]
    assert (modes["default"], modes["schema"]["__var"]["enum"]) == ("hot", ["hot", "cold"])


def test_restore_dag_has_the_designed_graph(parsed):
    expected = {("choose_set", "preflight"), ("preflight", "approve_plan")}
    for name in SOURCES:
        stage, verify = (f"stage_and_verify.{verb}.{name}" for verb in ("stage", "verify"))
        expected |= {("approve_plan", stage), (stage, verify), (verify, "approve_cutover")}
    line = [
        "approve_cutover",
        "stop_services",
        "safety_backup",
        *CHANGING[1 : CHANGING.index("finalize")],
        "accept",
        "finalize",
        *TEARDOWNS,
    ]
    expected |= set(pairwise(line))
    assert parsed.edges("shop_restore") == expected


def test_restore_dag_has_hook_tasks_when_the_plan_has_hooks(plans, parse, parsed):
    hook = "[{argv: ['true']}]"
    write_plan(plans, more=f"hooks: {{before_restore: {hook}, after_restore: {hook}}}\n")
    hooked = parse()
    new = hooked.edges("shop_restore") - parsed.edges("shop_restore")
    assert new == {
        ("approve_cutover", "before_restore"), ("before_restore", "stop_services"),
        ("roll_back", "after_restore"), ("after_restore", "discard"),
    }  # fmt: skip
    assert hooked.tasks("shop_restore")["after_restore"]["is_teardown"] is True


def test_restore_dag_has_roll_back_discard_and_report_as_teardowns(parsed):
    tasks = parsed.tasks("shop_restore")
    assert {task_id for task_id, task in tasks.items() if task.get("is_teardown")} == set(TEARDOWNS)
    assert [task_id for task_id, task in tasks.items() if task.get("on_failure_fail_dagrun")] == ["report"]
    assert not any(task.get("is_setup") for task in tasks.values())
    rules = {task_id: task["trigger_rule"] for task_id, task in tasks.items() if task_id not in TEARDOWNS}
    assert rules.pop("accept") == "all_done"
    assert set(rules.values()) == {"none_failed"}


def test_drill_dag_has_the_designed_graph(parsed):
    expected = {("choose_set", "start_scratch"), ("start_scratch", "preflight")}
    for name in SOURCES:
        stage, verify = (f"stage_and_verify.{verb}.{name}" for verb in ("stage", "verify"))
        expected |= {("preflight", stage), (stage, verify), (verify, "stop_services")}
    expected |= set(pairwise([*CHANGING[: CHANGING.index("finalize")], *TEARDOWNS]))
    assert parsed.edges("shop_drill") == expected
    tasks = parsed.tasks("shop_drill")
    assert {task_id for task_id, task in tasks.items() if task.get("is_teardown")} == set(TEARDOWNS)
    assert [task_id for task_id, task in tasks.items() if task.get("on_failure_fail_dagrun")] == ["report"]
    assert {task_id for task_id, task in tasks.items() if task["retries"]} == {"choose_set", "roll_back", "discard"}


def test_drill_dag_has_the_sources_of_its_target_and_the_queue_of_the_plan(plans, parse):
    target = "targets: {staging: {sources: {files: {uploads: {path: /srv/staging}}}}}\n"
    write_plan(plans, more=f"{target}drill: {{target: staging, queue: drills}}\n")
    parsed = parse()
    tasks = parsed.tasks("shop_drill")
    assert [task_id for task_id in tasks if task_id.startswith("cutover.")] == ["cutover.files.uploads"]
    assert {task["queue"] for task in tasks.values()} == {"drills"}
    assert dict(parsed.dags["shop_drill"]["dag"]["params"])["sources"]["default"] == ["files.uploads"]


@pytest.mark.parametrize(
    ("drill", "timetable", "words"),
    [
        ("{}", "NullTimetable", ()),
        ('{schedule: "0 4 * * 0"}', "CronTriggerTimetable", ("0 4 * * 0", "Europe/Berlin")),
        ("{on_new_set: true}", "AssetTriggeredTimetable", ("x-recovery://shop/complete-set",)),
        (
            '{schedule: "0 4 * * 0", on_new_set: true}',
            "AssetOrTimeSchedule",
            ("0 4 * * 0", "Europe/Berlin", "x-recovery://shop/complete-set"),
        ),
    ],
)
def test_drill_timetable_follows_schedule_and_on_new_set(plans, parse, drill, timetable, words):
    write_plan(plans, more=f"drill: {drill}\n")
    found = json.dumps(parse().dags["shop_drill"]["dag"]["timetable"])
    assert timetable in found
    assert all(word in found for word in words)


def test_dag_files_import_no_tool_and_read_no_connection_variable_or_clock():
    """Wiring only: the work is in the package, which the tasks call."""
    for path in (PROJECT / "dags").glob("*.py"):
        text = path.read_text()
        assert not any(f"import {name}" in text for name in ("os", "subprocess", "psycopg", "pymongo", "boto3", "shutil")), path
        assert "Connection.get" not in text
        assert "Variable" not in text
        assert "now()" not in text
