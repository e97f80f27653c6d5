"""The queue and the pool of each task, as the plan names them."""

import pytest

from tests.dags.conftest import parse_folder, write_plan


def parse(folder, more, pool=""):
    (folder / "plans").mkdir()
    path = write_plan(folder / "plans", more=more)
    path.write_text(path.read_text().replace("connection: shop_postgres", f"connection: shop_postgres{pool}"))
    return parse_folder(folder / "home", folder / "plans")


def queues(parsed, dag_id):
    return {name: task.get("queue", "default") for name, task in parsed.tasks(dag_id).items()}


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    return parse(tmp_path_factory.mktemp("apart"), "queues: {backup: reads, decode: opens, approve: asks}\n", ", pool: shop_server")


def test_backup_opens_sets_only_in_the_queue_for_that(apart):
    found = queues(apart, "shop_backup")
    assert {name for name, queue in found.items() if queue == "opens"} == {name for name in found if name.endswith(".verify")}
    assert set(found.values()) == {"reads", "opens"}


def test_gates_are_in_their_own_queue_and_the_rest_of_a_restore_where_sets_are_opened(apart):
    found = queues(apart, "shop_restore")
    assert {name for name, queue in found.items() if queue == "asks"} == {"approve_plan", "approve_cutover", "accept"}
    assert set(found.values()) == {"asks", "opens"}


def test_drill_without_a_queue_of_its_own_is_where_sets_are_opened(apart):
    assert set(queues(apart, "shop_drill").values()) == {"opens"}


def test_maintenance_is_in_the_queue_of_backups(apart):
    assert set(queues(apart, "shop_maintenance").values()) == {"reads"}


def test_only_the_dump_of_a_source_is_in_the_pool_of_its_server(apart):
    pools = {name: task.get("pool", "default_pool") for name, task in apart.tasks("shop_backup").items()}
    assert {name for name, pool in pools.items() if pool == "shop_server"} == {"postgres_main.dump"}
    assert set(pools.values()) == {"shop_server", "default_pool"}


def test_plan_with_one_queue_has_all_its_tasks_there_but_those_of_drills_that_have_their_own(tmp_path):
    one = parse(tmp_path, "queues: {backup: ours}\ndrill: {queue: drills}\n")
    found = [set(queues(one, f"shop_{family}").values()) for family in ("backup", "restore", "maintenance", "drill")]
    assert found == [{"ours"}, {"ours"}, {"ours"}, {"drills"}]


def test_plan_without_queues_leaves_them_to_airflow(plain):
    assert set(queues(plain, "shop_backup").values()) == {"default"}
