"""A system in containers, through a real Airflow: a cold backup, a disaster, a restore, and one whose tasks are killed.

PostgreSQL is reached at its own address, MongoDB by a tunnel; an application in a container writes all the time.
"""

import json
import os
import signal
import subprocess
import threading
from contextlib import ExitStack, closing

import docker
import pytest

from sandbox.servers import postgres_bin, wait_for
from tests.support.contained_system import ContainedSystem, Writer
from tests.support.containers import MongoWithoutNetwork
from tests.support.quick_airflow import quick_airflow
from tests.support.restore_play import RestorePlay, waiting_for

pytestmark = [pytest.mark.airflow, pytest.mark.slow]

NAME = "contained"


class System(ContainedSystem):
    """What its application writes all the time is compared by itself."""

    def fill(self):
        super().fill()
        self.sql("CREATE TABLE beats (start uuid NOT NULL, written timestamptz NOT NULL DEFAULT now())")

    def disaster(self):
        super().disaster()
        self.sql("DROP TABLE beats")

    def fingerprint(self):
        found = super().fingerprint()
        found["postgres.main"].pop("beats", None)
        return found


@pytest.fixture(scope="module")
def hidden_mongo(opened, server_folder, container_name):
    with MongoWithoutNetwork(opened, server_folder / "hidden-mongo", f"{container_name}-hidden-mongo") as server:
        yield server


@pytest.fixture(scope="module")
def system(engine, postgres_container, hidden_mongo, server_folder, container_name):
    made = System(engine, server_folder / NAME, NAME, postgres=postgres_container, mongo=hidden_mongo, down_at_most="10m")
    services = {"docker": {"connection": "engine", "containers": [f"{container_name}-app"]}}
    made.change_plan(lambda plan: plan | {"services": plan["services"] | services})
    yield made
    made.drop()


@pytest.fixture(scope="module")
def app(system, opened, server_folder, container_name):
    with Writer(opened, server_folder / "app", f"{container_name}-app", system.postgres, NAME) as running:
        yield running


@pytest.fixture(scope="module")
def airflow(system, app, server_folder):
    with quick_airflow(server_folder / "contained-airflow", system.plans, system.connections()) as server:
        dags = f"{NAME}_backup", f"{NAME}_restore"
        server.admin.wait_dags(*dags)
        server.admin.unpause(*dags)
        yield server


@pytest.fixture(scope="module")
def heard(engine):
    """What the Engine tells of its containers from now on, a line each: also every command that is run in one."""
    told = []
    with closing(docker.APIClient(engine)) as client:
        events = client.events(filters={"type": "container"})
        listening = threading.Thread(target=lambda: told.extend(iter(events)), daemon=True)
        listening.start()
        yield told
        events.close()
        listening.join()


@pytest.fixture(scope="module")
def backup(airflow, app, heard):
    """Rows of each start of the application, after a cold backup."""
    operator, dag = airflow.user("operator"), f"{NAME}_backup"
    run = operator.trigger(dag, {"mode": "cold"})
    assert operator.wait_run(dag, run) == "success", operator.states(dag, run)
    return app.rows()


@pytest.fixture(scope="module")
def play(backup, airflow, system):
    return RestorePlay(NAME, airflow, system)


def test_cold_backup_stops_the_application_and_starts_it_again(backup, system):
    (near, far) = (json.loads(next((system.folder / place).rglob("manifest.json")).read_text()) for place in ("near", "far"))
    assert near == far
    assert near["skew_seconds"] == 0
    assert 0 < near["downtime_seconds"] < 600
    assert len(backup) == 2, "it was started once more"


def kill_who_waits_for(play, lock):
    """Kill the task that waits for a source."""
    play.wait_until("a task to wait", lambda: waiting_for(lock) is not None)
    os.kill(waiting_for(lock), signal.SIGKILL)


def test_killed_cutover_and_killed_rollback_end_with_the_old_data_and_the_application_running(play, app):
    play.before = play.system.before = play.system.fingerprint()
    began = app.state["StartedAt"]
    play.trigger().approve("approve_plan")
    play.gate("approve_cutover")
    with ExitStack() as until_the_rollback:
        with play.source_in_use("mongo.documents") as used:
            play.approve("approve_cutover")
            play.wait_for_step("switched", "postgres.main")
            kill_who_waits_for(play, used)
            used_then = until_the_rollback.enter_context(play.source_in_use("config.settings"))
        kill_who_waits_for(play, used_then)
        assert (app.state["Running"], app.state["StartedAt"]) == (False, began)
    assert "everything was rolled back" in play.ended()
    play.assert_nothing_changed()
    assert play.alice.tasks(play.dag, play.run_id)["roll_back"].try_number > 1
    assert app.state["Running"]
    assert app.state["StartedAt"] > began
    wait_for("relays to end", lambda: len(play.system.mongo.processes()) == 1)


def test_restored_system_is_as_it_was_when_its_application_was_stopped(play, backup, app):
    play.trigger().approve("approve_plan", "approve_cutover")
    assert "✘" not in play.gate("accept").body
    play.approve("accept")
    play.ended("success")
    assert play.system.fingerprint() == play.set_state
    restored, *since = app.rows()
    assert restored == backup[0]
    assert len(since) == 1
    assert since[0] > 0


def test_passwords_of_servers_in_containers_are_in_no_log_no_record_and_no_command(play, app, airflow, heard):
    servers = play.system.postgres, play.system.mongo
    texts = {
        str(path): path.read_bytes() for folder in (airflow.folder, play.system.folder) for path in folder.rglob("*") if path.is_file()
    }
    texts["Airflow's database"] = dump_of(airflow.metadata)
    texts["docker inspect"] = json.dumps([each.details for each in (*servers, app)]).encode()
    texts["docker events"] = b"".join(heard)
    assert [(where, each.name) for where, text in texts.items() for each in servers if each.password.encode() in text] == []
    for where, known in {"Airflow's database": NAME, "docker inspect": app.name, "docker events": "exec_create: perl"}.items():
        assert known.encode() in texts[where], "nothing was searched"
    logs = b"".join(text for where, text in texts.items() if where.endswith(".log"))
    assert f"the container {play.system.postgres.name} is reached at its own address".encode() in logs
    assert f"the container {play.system.mongo.name} is reached by a tunnel".encode() in logs


def dump_of(server):
    """All that Airflow keeps."""
    address = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "postgres", "PGPASSWORD": server.password}
    argv = [postgres_bin(18) / "pg_dump", "airflow"]
    return subprocess.run(argv, env=os.environ | address, capture_output=True, check=True).stdout
