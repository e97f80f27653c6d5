"""Services in containers are stopped and started by a real Engine: in order, until they are well, and exactly those that ran."""

import logging
import os
import secrets
import signal
import subprocess
import threading
import time
from datetime import timedelta
from pathlib import Path

import docker
import pytest
import yaml

from recovery.backup import cold, steps
from recovery.backup.steps import Work
from recovery.cli.check import check
from recovery.common.errors import ConnectionUnusable, ContainerError, ContainerUnwell, RestoreError, StagingError
from recovery.common.faults import Faults
from recovery.plan.services import Services
from recovery.restore import answers, rollback
from recovery.restore import steps as restore_steps
from recovery.runners.docker import own
from recovery.runners.docker import services as docker_services
from recovery.runners.docker.engine import ONE_OFF, PROJECT, SERVICE
from recovery.runners.docker.order import DEPENDS_ON
from recovery.runs import services
from recovery.runs.journal import Journal
from recovery.runs.journal_steps import Step
from recovery.runs.stalled import services_down
from sandbox.containers import stand_ins
from sandbox.containers.stand_ins import compose_program
from tests.support.contained_system import ContainedSystem
from tests.support.kills import Killed
from tests.support.restore_driver import refused_by_preflight, run_until, show_gate, teardown

pytestmark = [pytest.mark.docker, pytest.mark.slow]

WAIT = ["sleep", "infinity"]
DEAF = ["sh", "-c", "trap 'echo asked' TERM; echo ready; while :; do sleep 0.1; done"]
"""Does not end when it is asked to, and says so; from the moment on in which it says that it is ready."""
HEALTHY, SICK = ({"test": ["CMD", verdict], "interval": 200_000_000, "retries": 1} for verdict in ("true", "false"))


class Containers:
    """Containers of one test, by short names; those with a service belong to its Compose project."""

    def __init__(self, client, project):
        self.client = client
        self.project = project

    def add(self, name, command=WAIT, *, service=None, needs=(), start=True, labels=(), stop_timeout=None, **given):
        """Create a container, and start it unless told otherwise."""
        host = {key: given.pop(key) for key in ("auto_remove", "restart_policy", "binds", "pid_mode") if key in given}
        tags = dict(labels)
        if service:
            depends_on = ",".join(f"{each}:service_started:false" for each in needs)
            tags = {PROJECT: self.project, SERVICE: service, ONE_OFF: "False", DEPENDS_ON: depends_on} | tags
        made = self.client.create_container_config(stand_ins.BASE, command, labels=tags, **given)
        if stop_timeout is not None:
            made["StopTimeout"] = stop_timeout
        made["HostConfig"] = self.client.create_host_config(init=True, network_mode="none", **host)
        self.client.create_container_from_config(made, self.full(name))
        if start:
            self.client.start(self.full(name))

    def full(self, name):
        return f"{self.project}-{name}"

    def details(self, name):
        return self.client.inspect_container(self.full(name))

    def wait_until_it_says(self, name, word):
        deadline = time.monotonic() + 60
        while word not in self.client.logs(self.full(name)).decode():
            assert time.monotonic() < deadline, f"{name} does not say {word}"
            time.sleep(0.05)

    def running(self):
        """The short names of those that run, sorted."""
        found = self.client.containers(filters={"name": self.project})
        return sorted(each["Names"][0].removeprefix(f"/{self.project}-") for each in found)

    def by(self, moment):
        """Short names in the order of their last start or end, ``StartedAt`` or ``FinishedAt``."""
        found = self.client.containers(all=True, filters={"name": self.project})
        when = {each["Names"][0].removeprefix(f"/{self.project}-"): self.client.inspect_container(each["Id"])["State"] for each in found}
        return sorted(when, key=lambda name: when[name][moment])

    def remove(self):
        for each in self.client.containers(all=True, filters={"name": self.project}):
            self.client.remove_container(each["Id"], force=True)


@pytest.fixture(scope="session")
def client(engine):
    client = docker.APIClient(engine)
    yield client
    client.close()


@pytest.fixture
def containers(client):
    made = Containers(client, f"services-{secrets.token_hex(6)}")
    yield made
    made.remove()


@pytest.fixture
def connect(engine_endpoint):
    return {"engine": engine_endpoint}.__getitem__


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def compose(containers, *names, timeout="30s", **more):
    part = {"connection": "engine", "project": containers.project, "stop": names}
    return Services.model_validate({"compose": part, "timeout": timeout} | more)


def named(containers, *names, timeout="30s", **more):
    part = {"connection": "engine", "containers": [containers.full(name) for name in names]}
    return Services.model_validate({"docker": part, "timeout": timeout} | more)


@pytest.fixture
def shop(containers):
    """``app`` needs ``queue``, which nobody names, which needs ``worker``, of two containers; one of ``worker`` does not run."""
    containers.add("worker-1", service="worker")
    containers.add("worker-2", service="worker")
    containers.add("worker-3", service="worker", start=False)
    containers.add("queue-1", service="queue", needs=["worker"])
    containers.add("app-1", service="app", needs=["queue"], healthcheck=HEALTHY)
    return compose(containers, "worker", "app")


def test_services_of_a_project_stop_dependents_first_and_start_them_last(shop, containers, connect, journal):
    services.stop(shop, connect, journal)
    assert containers.running() == ["queue-1"]
    first, *others = containers.by("FinishedAt")[-3:]
    assert (first, sorted(others)) == ("app-1", ["worker-1", "worker-2"])
    services.start(shop, connect, journal)
    assert containers.running() == ["app-1", "queue-1", "worker-1", "worker-2"]
    assert containers.by("StartedAt")[-1] == "app-1"
    assert containers.details("app-1")["State"]["Health"]["Status"] == "healthy"


def test_named_containers_stop_in_their_order_and_start_in_the_opposite_one(containers, connect, journal):
    for name in ("a", "b", "c"):
        containers.add(name)
    given = named(containers, "b", "c", "a")
    services.stop(given, connect, journal)
    assert (containers.running(), containers.by("FinishedAt")) == ([], ["b", "c", "a"])
    services.start(given, connect, journal)
    assert containers.by("StartedAt") == ["a", "c", "b"]


def test_containers_stop_after_commands_and_start_before_them(containers, connect, journal, tmp_path):
    containers.add("app")
    look = ["sh", "-c", f"kill -0 {containers.details('app')['State']['Pid']} && echo up >> {tmp_path}/seen"]
    ready = ["sh", "-c", f"echo start >> {tmp_path}/seen"]
    given = named(containers, "app", stop=[look], start=[ready])
    services.stop(given, connect, journal)
    services.start(given, connect, journal)
    assert (tmp_path / "seen").read_text() == "up\nstart\n"
    assert containers.running() == ["app"]


@pytest.fixture
def dying(monkeypatch):
    """Does work in a process that ends by SIGKILL after so many stops or starts of containers."""

    def die_after(calls, work):
        if (pid := os.fork()) == 0:
            left, one_by_one = calls, threading.Lock()
            for name in ("stop", "start"):
                usual = getattr(docker.APIClient, name)

                def counted(*given, usual=usual):
                    nonlocal left
                    with one_by_one:
                        if left == 0:
                            os.kill(os.getpid(), signal.SIGKILL)
                        usual(*given)
                        left -= 1

                setattr(docker.APIClient, name, counted)
            try:
                work()
            finally:
                os._exit(0)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])

    return die_after


@pytest.mark.parametrize("stopped", [0, 1, 2])
def test_after_a_kill_between_stops_exactly_those_that_ran_start_again(shop, containers, connect, journal, dying, stopped):
    dying(stopped, lambda: services.stop(shop, connect, journal))
    assert len(containers.running()) == 4 - stopped
    services.start(shop, connect, journal)
    assert containers.running() == ["app-1", "queue-1", "worker-1", "worker-2"]


def test_stop_with_which_the_engine_goes_on_after_a_kill_is_over_before_the_start(containers, connect, journal):
    """Else what is found running would be taken for started, and end a moment later."""
    containers.add("app", DEAF, stop_timeout=5)
    containers.wait_until_it_says("app", "ready")
    given = named(containers, "app")
    before = containers.details("app")["State"]["StartedAt"]
    if (pid := os.fork()) == 0:
        services.stop(given, connect, journal)
        os._exit(0)
    containers.wait_until_it_says("app", "asked")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert containers.running() == ["app"]
    services.start(given, connect, journal)
    assert containers.running() == ["app"]
    after = containers.details("app")["State"]["StartedAt"]
    assert after > before
    services.start(given, connect, journal)
    assert containers.details("app")["State"]["StartedAt"] == after, "it was stopped once more"


def test_containers_of_one_level_stop_side_by_side(containers, connect, journal):
    names = [f"app-{number}" for number in range(4)]
    for name in names:
        containers.add(name, DEAF, service="app", stop_timeout=5)
        containers.wait_until_it_says(name, "ready")
    services.stop(compose(containers, "app"), connect, journal)
    assert containers.running() == []
    asked = [entry for entry in journal.everything() if entry.step in {Step.STOPPING_CONTAINER, Step.CONTAINER_STOPPED}]
    assert [entry.step for entry in asked[:4]] == [Step.STOPPING_CONTAINER] * 4, "one was stopped before another was asked"


def test_containers_of_one_level_are_waited_for_side_by_side(containers, connect, journal, caplog):
    caplog.set_level(logging.INFO)
    for number in range(4):
        containers.add(f"app-{number}", service="app", healthcheck=SICK | {"retries": 1000})
    given = compose(containers, "app")
    services.stop(given, connect, journal)
    with pytest.raises(ContainerUnwell, match="4 containers of the services could not be started"):
        services.start(given.model_copy(update={"timeout": timedelta(seconds=3)}), connect, journal)
    waited = [message for message in caplog.messages if message.startswith("waiting until") or "is starting after" in message]
    assert [message.partition(" ")[0] for message in waited[:4]] == ["waiting"] * 4, "one was waited for to its end before another"


def test_container_and_command_that_fail_are_both_named(containers, connect, journal):
    containers.add("app", healthcheck=SICK)
    given = named(containers, "app", stop=[["true"]], start=[["false"]])
    services.stop(given, connect, journal)
    with pytest.raises(
        ContainerError, match=f"{containers.full('app')} was started, and it is unhealthy.*false, command 1 of 1, failed"
    ) as told:
        services.start(given, connect, journal)
    assert told.value.retryable


def test_second_try_of_a_stop_that_was_killed_does_not_forget_what_ran(shop, containers, connect, journal, dying):
    dying(2, lambda: services.stop(shop, connect, journal))
    services.stop(shop, connect, journal)
    assert containers.running() == ["queue-1"]
    dying(1, lambda: services.start(shop, connect, journal))
    services.start(shop, connect, journal)
    assert containers.running() == ["app-1", "queue-1", "worker-1", "worker-2"]


def test_containers_of_the_journal_start_whatever_the_plan_says_by_then(shop, containers, connect, journal):
    services.stop(shop, connect, journal)
    services.start(Services(), connect, journal)
    assert containers.running() == ["app-1", "queue-1", "worker-1", "worker-2"]


def test_container_that_was_started_by_hand_is_left_as_it_is(containers, connect, journal):
    containers.add("app")
    given = named(containers, "app")
    services.stop(given, connect, journal)
    containers.client.start(containers.full("app"))
    before = containers.details("app")["State"]["StartedAt"]
    services.start(given, connect, journal)
    assert containers.details("app")["State"]["StartedAt"] == before


def test_container_that_was_made_anew_is_found_by_its_name(containers, connect, journal):
    containers.add("app")
    given = named(containers, "app")
    services.stop(given, connect, journal)
    containers.client.remove_container(containers.full("app"))
    containers.add("app", start=False)
    services.start(given, connect, journal)
    assert containers.running() == ["app"]


def test_service_that_has_other_containers_by_now_is_started_with_these(containers, connect, journal):
    containers.add("app-1", service="app")
    given = compose(containers, "app")
    services.stop(given, connect, journal)
    containers.client.remove_container(containers.full("app-1"))
    containers.add("app-green", service="app", start=False)
    services.start(given, connect, journal)
    assert containers.running() == ["app-green"]


def test_service_whose_only_other_container_was_down_before_is_an_error(containers, connect, journal):
    containers.add("app-1", service="app")
    containers.add("app-2", service="app", start=False)
    given = compose(containers, "app")
    services.stop(given, connect, journal)
    containers.client.remove_container(containers.full("app-1"))
    with pytest.raises(ContainerError, match="app-1 ran, was stopped, and is gone"):
        services.start(given, connect, journal)
    assert containers.running() == []


def test_container_that_is_gone_and_that_the_plan_names_no_more_is_not_missed(containers, connect, journal):
    """Else no backup would be made any more: each begins with the start of what one before has left down."""
    containers.add("a")
    containers.add("b")
    services.stop(named(containers, "a", "b"), connect, journal)
    containers.client.remove_container(containers.full("b"))
    services.start(named(containers, "a"), connect, journal)
    assert containers.running() == ["a"]


def test_container_that_is_gone_is_named_and_the_others_start(containers, connect, journal):
    for name in ("a", "b", "c"):
        containers.add(name)
    given = named(containers, "a", "b", "c")
    services.stop(given, connect, journal)
    containers.client.remove_container(containers.full("b"))
    with pytest.raises(ContainerError, match=f"{containers.full('b')} ran, was stopped, and is gone") as told:
        services.start(given, connect, journal)
    assert told.value.retryable
    assert containers.running() == ["a", "c"]


def test_start_waits_for_the_healthcheck_of_what_others_need(containers, connect, journal, tmp_path):
    """The dependent would see nobody if it came at once."""
    healthcheck = {"test": ["CMD", "test", "-e", "/shared/ready"], "interval": 200_000_000, "retries": 1000}
    shared = {"binds": [f"{tmp_path}:/shared"], "healthcheck": healthcheck}
    containers.add("db-1", ["sh", "-c", "sleep 2; touch /shared/ready; sleep infinity"], service="db", **shared)
    looks = ["sh", "-c", "[ -e /shared/ready ] && touch /shared/seen; sleep infinity"]
    containers.add("app-1", looks, service="app", needs=["db"], binds=shared["binds"])
    services.stop(given := compose(containers, "db", "app"), connect, journal)
    for left in tmp_path.glob("[rs]e*"):
        left.unlink()
    services.start(given, connect, journal)
    assert (tmp_path / "seen").exists()


def test_unhealthy_container_fails_the_start_and_its_last_lines_are_in_the_log_alone(containers, connect, journal, caplog):
    says = ["sh", "-c", "echo 'no way to postgres://shop:geheim@db/shop with key 0123456789'; printf 'bad\\033[2J\\n'; sleep infinity"]
    containers.add("app", says, healthcheck=SICK, environment=["API_KEY=0123456789"])
    containers.add("web", healthcheck=HEALTHY)
    given = named(containers, "web", "app")
    services.stop(given, connect, journal)
    with pytest.raises(ContainerError, match=f"{containers.full('app')} was started, and it is unhealthy") as told:
        services.start(given, connect, journal)
    assert containers.running() == ["app", "web"]
    assert "postgres" not in str(told.value)
    assert "no way to postgres://shop:***@db/shop with key ***" in caplog.text
    assert "geheim" not in caplog.text
    assert "0123456789" not in caplog.text
    assert r"bad\x1b[2J" in caplog.text


def test_container_that_was_unhealthy_before_is_named_so(containers, connect, journal):
    containers.add("app", healthcheck=SICK)
    while containers.details("app")["State"]["Health"]["Status"] != "unhealthy":
        pass
    services.stop(given := named(containers, "app"), connect, journal)
    with pytest.raises(ContainerError, match="which was unhealthy before it was stopped, too"):
        services.start(given, connect, journal)


@pytest.mark.parametrize("restart_policy", [{"Name": "no"}, {"Name": "always"}])
def test_container_that_ends_at_once_fails_the_start(containers, connect, journal, restart_policy):
    once = ["sh", "-c", "[ -e /tmp/again ] && exit 3; touch /tmp/again; sleep infinity"]
    containers.add("app", once, restart_policy=restart_policy)
    services.stop(given := named(containers, "app", timeout="12s"), connect, journal)
    with pytest.raises(ContainerError, match=r"was started, and it (has ended, with status 3|is \w+ after 12 s)"):
        services.start(given, connect, journal)


def test_container_that_is_always_started_again_stays_down(containers, connect, journal):
    containers.add("app", restart_policy={"Name": "always"})
    services.stop(given := named(containers, "app"), connect, journal)
    assert services.running_again(given, connect, journal) == []
    assert containers.running() == []


def test_waiting_is_in_the_log(containers, connect, journal, caplog):
    caplog.set_level(logging.INFO)
    containers.add("app", healthcheck=HEALTHY)
    containers.add("old", start=False)
    services.stop(given := named(containers, "app", "old"), connect, journal)
    services.start(given, connect, journal)
    app, old = containers.full("app"), containers.full("old")
    for words in (
        f"{old} does not run, and stays as it is",
        f"stopping {app}; it has 10 s before it is killed",
        f"{app} has stopped after",
        f"waiting until {app} is well, for 30 s at most",
        f"{app} is healthy after",
    ):
        assert words in caplog.text


# What is refused before anything stops ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"auto_remove": True}, "is removed when it stops"),
        ({"stop_timeout": 300}, "has 5 min to stop, longer than services.timeout"),
        ({"stop_timeout": -1}, "has no limit of time to stop"),
        ({"labels": {"com.docker.swarm.service.name": "x"}}, "belongs to a Swarm service"),
    ],
)
def test_container_that_would_not_come_back_is_refused_before_any_stops(containers, connect, journal, given, words):
    containers.add("a")
    containers.add("b", **given)
    with pytest.raises(ContainerError, match=words):
        services.stop(named(containers, "a", "b"), connect, journal)
    assert containers.running() == ["a", "b"]
    services.start(named(containers, "a", "b"), connect, journal)


def test_paused_container_is_refused(containers, connect, journal):
    containers.add("app")
    containers.client.pause(containers.full("app"))
    with pytest.raises(ContainerError, match="is paused"):
        services.stop(named(containers, "app"), connect, journal)


def test_one_off_container_of_a_service_is_refused_while_it_runs(shop, containers, connect, journal):
    containers.add("app-run", service="app", labels={ONE_OFF: "True"})
    with pytest.raises(ContainerError, match="app-run is a one-off container"):
        services.stop(shop, connect, journal)
    containers.client.kill(containers.full("app-run"))
    services.stop(shop, connect, journal)
    services.start(shop, connect, journal)
    assert "app-run" not in containers.running()


def test_missing_service_and_missing_container_are_refused(containers, connect, journal):
    containers.add("app-1", service="app")
    with pytest.raises(ContainerError, match="no container of the service workr of the Compose project"):
        services.stop(compose(containers, "app", "workr"), connect, journal)
    with pytest.raises(ContainerError, match="There is no container"):
        services.stop(named(containers, "nobody"), connect, journal)
    assert containers.running() == ["app-1"]


def test_worker_is_never_stopped_by_itself(containers, connect, journal, monkeypatch):
    containers.add("worker")
    monkeypatch.setattr(docker_services, "own_containers", lambda: {containers.details("worker")["Id"]})
    given = named(containers, "worker")
    with pytest.raises(ContainerError, match="is where this worker runs"):
        services.stop(given, connect, journal)
    services.stop_again(given, connect, journal, faults := Faults())
    assert "is where this worker runs" in str(faults.sentences)
    assert containers.running() == ["worker"]


def test_own_container_is_known_inside_of_one(containers, client):
    """The module needs nothing but Python, so it runs in any image that has it."""
    containers.add("app", ["sh", "-c", "python3 - <<'END'\n" + Path(own.__file__).read_text() + "\nprint(*own_containers())\nEND"])
    client.wait(containers.full("app"))
    assert client.logs(containers.full("app")).decode().split() == [containers.details("app")["Id"]]


def test_rollback_stops_what_it_can(containers, connect, journal):
    for name in ("a", "b"):
        containers.add(name)
    services.stop(given := named(containers, "a", "b"), connect, journal)
    services.start(given, connect, journal)
    containers.client.pause(containers.full("a"))
    services.stop_again(given, connect, journal, faults := Faults())
    assert (faults.sentences, containers.running()) == ([], [])


def test_container_that_ran_in_between_is_told_whoever_stopped_it_again(shop, containers, connect, journal):
    services.stop(shop, connect, journal)
    assert services.running_again(shop, connect, journal) == []
    containers.client.start(containers.full("worker-3"))
    assert services.running_again(shop, connect, journal) == [containers.full("worker-3")]
    containers.client.kill(containers.full("worker-3"))
    assert services.running_again(shop, connect, journal) == [containers.full("worker-3")]


def test_one_off_container_that_runs_in_between_is_told(shop, containers, connect, journal):
    services.stop(shop, connect, journal)
    containers.add("app-run", service="app", labels={ONE_OFF: "True"})
    assert services.running_again(shop, connect, journal) == [containers.full("app-run")]


def test_what_real_compose_starts_is_stopped_in_its_order(containers, connect, journal, tmp_path, engine):
    service = {"image": stand_ins.BASE, "command": WAIT, "init": True, "network_mode": "none"}
    db = service | {"healthcheck": {"test": ["CMD", "true"], "interval": "1s"}}
    worker = service | {"depends_on": {"db": {"condition": "service_healthy"}}, "deploy": {"replicas": 2}}
    file = {"name": containers.project, "services": {"db": db, "worker": worker, "app": service | {"depends_on": ["worker"]}}}
    (tmp_path / "compose.yaml").write_text(yaml.safe_dump(file))
    subprocess.run([compose_program(), "up", "--detach"], cwd=tmp_path, env=os.environ | {"DOCKER_HOST": engine}, check=True)
    given = compose(containers, "db", "worker", "app")
    services.stop(given, connect, journal)
    order = [name.partition("-")[0] for name in containers.by("FinishedAt")]
    assert (containers.running(), order) == ([], ["app", "worker", "worker", "db"])
    services.start(given, connect, journal)
    assert [name.partition("-")[0] for name in containers.by("StartedAt")] == ["db", "worker", "worker", "app"]


# In backups and restores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def system(tmp_path, shop, engine):
    return serving(ContainedSystem(engine, tmp_path / "small", "small"), shop)


def serving(system, services):
    system.change_plan(lambda plan: plan | {"services": services.model_dump(mode="json") | {"down_at_most": "30m"}})
    return system


UP = ["app-1", "queue-1", "worker-1", "worker-2"]


def test_cold_backup_stops_and_starts_containers(system, containers):
    staged = system.begin_backup(mode="cold")
    cold.stop_services(system.context(), staged)
    assert containers.running() == ["queue-1"]
    for source_id in staged.run().sources:
        steps.dump(Work(system.context(), staged, source_id))
    assert cold.start_services(system.context(), staged) is True
    assert containers.running() == UP


@pytest.mark.parametrize("during", [False, True])
def test_source_of_a_cold_set_is_refused_if_a_container_runs(system, containers, during):
    staged = system.begin_backup(mode="cold")
    cold.stop_services(system.context(), staged)
    with pytest.raises(StagingError, match="worker-3 ran while the sources"):
        if not during:
            containers.client.start(containers.full("worker-3"))
        with cold.reading(system.context(), staged):
            containers.client.start(containers.full("worker-3"))


def test_next_backup_starts_containers_that_a_killed_one_left_down(system, containers, dying):
    staged = system.begin_backup(mode="cold")
    dying(2, lambda: cold.stop_services(system.context(), staged))
    system.begin_backup("another run")
    assert containers.running() == UP


@pytest.mark.parametrize("first", ["backup", "restore"])
def test_restore_starts_what_a_cold_backup_has_stopped(system, containers, first):
    """The restore finds that down, and the backup leaves the start to it."""
    system.backed_up_and_damaged()
    staged = system.begin_backup("cold", mode="cold")
    cold.stop_services(system.context(), staged)
    run = system.restore()
    run_until(system, run, "stop services")
    if first == "backup":
        assert cold.start_services(system.context(), staged) is True
        assert containers.running() == ["queue-1"]
    for source_id in run.plan.source_ids:
        restore_steps.cut_over(run, source_id)
    restore_steps.start_services(run)
    assert containers.running() == UP
    cold.start_services(system.context(), staged)
    assert containers.running() == UP


@pytest.fixture
def sick(tmp_path, containers, engine):
    """A system whose only service is unhealthy."""
    containers.add("app", healthcheck=SICK)
    return serving(ContainedSystem(engine, tmp_path / "small", "small"), named(containers, "app"))


def test_container_that_stays_unhealthy_fails_its_cold_backup_and_keeps_no_other_from_beginning(sick, containers):
    staged = sick.begin_backup(mode="cold")
    cold.stop_services(sick.context(), staged)
    for _ in range(2):
        with pytest.raises(ContainerUnwell, match="was started, and it is unhealthy"):
            cold.start_services(sick.context(), staged)
    assert not services_down(staged.services)
    assert sick.begin_backup("another run").begun
    assert containers.running() == ["app"]


def test_container_that_stays_unhealthy_fails_the_rollback_which_is_complete_all_the_same(sick, containers):
    sick.backed_up_and_damaged()
    run = sick.restore()
    run_until(sick, run, f"cutover {run.plan.source_ids[-1]}")
    words = teardown(run)
    assert "was started, and it is unhealthy" in words
    assert "everything was rolled back, the previous data is in use" in words
    assert run.journal.closed
    assert sick.fingerprint() == sick.before


def test_rollback_that_is_tried_again_for_its_services_alone_does_not_stop_them(sick, containers):
    sick.backed_up_and_damaged()
    run = sick.restore()
    run_until(sick, run, f"cutover {run.plan.source_ids[-1]}")
    with pytest.raises(ContainerUnwell):
        restore_steps.start_services(run)
    show_gate(run, "accept")
    answers.reject(run, "accept", "alice")
    with pytest.raises(RestoreError, match="it is unhealthy"):
        rollback.roll_back(run)
    before = containers.details("app")["State"]["StartedAt"]
    with pytest.raises(RestoreError, match="it is unhealthy"):
        rollback.roll_back(run)
    assert containers.details("app")["State"]["StartedAt"] == before


def test_restore_that_is_killed_when_it_begins_to_stop_starts_what_a_cold_backup_has_stopped(system, containers, monkeypatch):
    system.backed_up_and_damaged()
    staged = system.begin_backup("cold", mode="cold")
    cold.stop_services(system.context(), staged)
    run = system.restore()
    run_until(system, run, "gate cutover")
    record = Journal.record

    def killed(journal, step, *given, **facts):
        record(journal, step, *given, **facts)
        if step == Step.STOPPING_SERVICES:
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Journal, "record", killed)
        restore_steps.stop_services(run)
    cold.start_services(system.context(), staged)
    teardown(run)
    assert containers.running() == UP


def test_restore_stops_and_starts_containers(system, containers):
    system.backed_up_and_damaged()
    run = system.restore()
    run_until(system, run, "stop services")
    assert containers.running() == ["queue-1"]
    assert "Stopped, and started again if they run now: the services worker, app" in run.gate_file("cutover", ".md").read_text()
    for source_id in run.plan.source_ids:
        restore_steps.cut_over(run, source_id)
    restore_steps.start_services(run)
    assert containers.running() == UP
    assert system.fingerprint() == system.set_state


def test_restore_that_failed_starts_what_it_stopped(system, containers):
    system.backed_up_and_damaged()
    run = system.restore()
    run_until(system, run, "stop services")
    containers.client.start(containers.full("worker-3"))
    with pytest.raises(RestoreError, match="worker-3 ran since the services were stopped"):
        restore_steps.cut_over(run, run.plan.source_ids[0])
    containers.client.kill(containers.full("worker-3"))
    assert "worker-3 ran" not in teardown(run)
    assert containers.running() == UP
    assert system.fingerprint() == system.before


def test_rollback_of_a_system_in_use_stops_it_and_starts_what_ran_at_first(system, containers):
    system.backed_up_and_damaged()
    run = system.restore()
    run_until(system, run, "check")
    containers.client.kill(containers.full("worker-2"))
    answers.reject(run, "accept", "alice")
    rollback.roll_back(run)
    assert containers.running() == UP
    assert system.fingerprint() == system.before
    assert containers.by("StartedAt")[-1] == "app-1"


def test_preflight_refuses_services_that_can_not_be_stopped(system, containers):
    system.back_up()
    containers.client.pause(containers.full("app-1"))
    run = system.restore()
    assert "Services can't be stopped" in refused_by_preflight(run, system.ask(run))


def test_check_tries_services_out(system, containers):
    context = system.context()
    assert "services" in "\n".join(check(context.plan, context.clients).lines)
    containers.client.pause(containers.full("app-1"))
    answer = check(context.plan, context.clients)
    assert answer.status == 1
    assert "app-1 is paused" in "\n".join(answer.lines)


def test_engine_that_does_not_answer_stops_nothing_and_is_named(system, containers, tmp_path):
    staged = system.begin_backup(mode="cold")
    system.edit_plan("connection: engine", "connection: nobody")
    with pytest.raises(ConnectionUnusable, match="no nobody"):
        cold.stop_services(system.context(), staged)
    assert containers.running() == UP
    assert cold.start_services(system.context(), staged) is True
    assert staged.services.last(Step.SERVICES_STARTED)
