"""docker-compose.yaml with two workers: a backup, a disaster, a restore with two people, a drill; then workers and servers die."""

import json
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from sandbox.person import ENDED, Refused

PROJECT = Path(__file__).parent.parent.parent
STDERR = "database system is ready to accept connections"
"""What PostgreSQL prints to its standard error."""
ONE_SHOTS = {"init", "sample-data"}
BACKUP, DRILL, RESTORE = (f"openmanus_{each}" for each in ("backup", "drill", "restore"))


@pytest.fixture(scope="module")
def operator(stack):
    person = stack.person("operator")
    dags = (BACKUP, DRILL, RESTORE, "openmanus_maintenance")
    person.wait_dags(*dags)
    person.unpause(*dags)
    return person


def back_up(operator):
    run = operator.trigger(BACKUP)
    assert operator.wait_run(BACKUP, run, timeout=300) == "success", operator.states(BACKUP, run)
    return run


def restore(stack, operator, run, until=None):
    """Answer the gates of a restore, two people in turn; up to the gate ``until``, which is returned unanswered."""
    people = [stack.person("alice"), stack.person("bob")]
    for number in range(20):
        gate = operator.next_gate(RESTORE, run, timeout=300)
        if gate is None or gate.task_id == until:
            return gate
        people[number % 2].answer(gate)
    raise AssertionError("too many gates")


def worker_of(stack, operator, dag, run, task):
    """The container that runs a task."""
    hostname = hostname_of(operator, dag, run, task)
    return next(name for number in (1, 2) if stack.id_of(name := stack.container("worker", number)).startswith(hostname))


def hostname_of(operator, dag, run, task):
    return operator.call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances/{task}")["hostname"]


@contextmanager
def dump_that_waits(stack, operator):
    """A backup whose dump of PostgreSQL waits for a table during a block."""
    with stack.connect("openmanus") as holder, holder.transaction():
        holder.execute("LOCK TABLE customers IN ACCESS EXCLUSIVE MODE")
        run = operator.trigger(BACKUP)
        operator.wait_task(BACKUP, run, "postgres_main.dump", {"running"})
        wait_until(lambda: waits_for_lock(stack), "pg_dump to wait for the table")
        yield run


def waits_for_lock(stack):
    with stack.connect("openmanus") as session:
        row = session.execute("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'customers'::regclass").fetchone()
    return row[0] > 0


def wait_until(reached, what, timeout=120):
    deadline = time.monotonic() + timeout
    while not reached():
        assert time.monotonic() < deadline, f"waited {timeout} s for {what}"
        time.sleep(0.3)


def test_every_service_is_healthy_and_those_that_run_once_have_ended_well(stack):
    rows = [json.loads(line) for line in stack.compose("ps", "--all", "--format", "json").splitlines()]
    services = yaml.safe_load((PROJECT / "docker-compose.yaml").read_text())["services"]
    assert Counter(row["Service"] for row in rows) == {**dict.fromkeys(services, 1), "worker": 2}
    states = {row["Name"]: (row["State"], row["ExitCode"] if row["Service"] in ONE_SHOTS else row["Health"]) for row in rows}
    expected = {row["Name"]: ("exited", 0) if row["Service"] in ONE_SHOTS else ("running", "healthy") for row in rows}
    assert states == expected


def test_both_workers_and_the_one_for_drills_answer_to_celery(stack):
    docker = stack.engine.docker
    workers = [stack.container("worker", 1), stack.container("worker", 2), stack.container("drill-worker")]
    names = [f"celery@{docker('inspect', '--format', '{{.Config.Hostname}}', name).strip()}" for name in workers]
    assert len(set(names)) == 3
    ping = 'CELERY_BROKER_URL="$AIRFLOW__CELERY__BROKER_URL" celery inspect ping --timeout 10 --json'
    assert json.loads(docker("exec", workers[0], "sh", "-c", ping)) == {name: {"ok": "pong"} for name in names}


def test_people_have_their_roles_and_only_the_administrator_sees_connections(stack):
    admin = stack.person("admin")
    told = httpx.get(f"{stack.url}/auth/fab/v1/users", headers={"Authorization": f"Bearer {admin.token}"}, trust_env=False)
    roles = {user["username"]: [role["name"] for role in user["roles"]] for user in told.raise_for_status().json()["users"]}
    assert roles == {"admin": ["Admin"], "operator": ["User"], "alice": ["User"], "bob": ["User"]}
    known = {connection["connection_id"] for connection in admin.call("GET", "/connections")["connections"]}
    assert known == {*stack.private_keys, "openmanus_postgres", "openmanus_mongo", "backup_s3"}
    for name in ("operator", "alice", "bob"):
        with pytest.raises(Refused, match="answered 403"):
            stack.person(name).call("GET", "/connections")


def test_system_comes_back_equal_after_a_disaster_and_the_drill_passes(stack, operator):
    before = stack.fingerprint()
    back_up(operator)
    stack.disaster()
    run = operator.trigger(RESTORE)
    restore(stack, operator, run)
    assert operator.run_state(RESTORE, run) == "success"
    assert stack.fingerprint() == before
    drill = operator.trigger(DRILL)
    assert operator.wait_run(DRILL, drill, timeout=300) == "success", operator.states(DRILL, drill)
    assert "share the worker's network" in operator.log_text(DRILL, drill, "report")


def test_dump_whose_worker_is_killed_is_retried_on_the_other_worker(stack, operator):
    with dump_that_waits(stack, operator) as run:
        killed = worker_of(stack, operator, BACKUP, run, "postgres_main.dump")
        stack.engine.docker("kill", killed)
    try:
        assert operator.wait_run(BACKUP, run, timeout=400) == "success", operator.states(BACKUP, run)
        dumped = operator.tasks(BACKUP, run)["postgres_main.dump"]
        assert dumped.try_number > 1
        assert worker_of(stack, operator, BACKUP, run, "postgres_main.dump") != killed
    finally:
        stack.engine.docker("start", killed)


def test_restore_whose_worker_is_killed_in_the_switch_is_resumed_or_goes_back(stack, operator):
    back_up(operator)
    before = stack.fingerprint()
    change(stack)
    changed = stack.fingerprint()
    assert all(before[source] != changed[source] for source in ("postgres.main", "mongo.documents", "files.uploads"))
    run = operator.trigger(RESTORE)
    gate = restore(stack, operator, run, until="approve_cutover")
    stack.person("bob").answer(gate)
    operator.wait_task(RESTORE, run, "cutover.postgres.main", {"running"})
    stack.engine.docker("pause", stack.container("sample-mongo"))
    operator.wait_task(RESTORE, run, "cutover.mongo.documents", {"running"})
    killed = worker_of(stack, operator, RESTORE, run, "cutover.mongo.documents")
    stack.engine.docker("kill", killed)
    stack.engine.docker("unpause", stack.container("sample-mongo"))
    try:
        restore(stack, operator, run)
        state = operator.run_state(RESTORE, run)
        assert stack.fingerprint() == (before if state == "success" else changed)
        assert (state == "success") == (operator.states(RESTORE, run)["roll_back"] == "skipped")
    finally:
        stack.engine.docker("start", killed)


def change(stack):
    """Change something in each source."""
    with stack.connect("openmanus") as session:
        session.execute("ALTER TABLE customers ADD COLUMN after_the_backup integer")
    with stack.client() as client:
        client["openmanus"]["sessions"].drop()
    (stack.storage / "after the backup").write_text("new")


@pytest.mark.parametrize("service", ["redis", "metadata"])
def test_restart_of_airflows_own_servers_in_a_backup_is_survived_or_clearly_red(stack, operator, service):
    if operator.call("GET", f"/dags/{BACKUP}/dagRuns", limit=1)["total_entries"] == 0:
        back_up(operator)
    sets = sets_of(stack)
    run = operator.trigger(BACKUP)
    operator.wait_task(BACKUP, run, "postgres_main.dump", {"running", "success"})
    stack.compose("restart", service)
    stack.wait_answers()
    assert operator.wait_run(BACKUP, run, timeout=400) in ENDED
    if operator.run_state(BACKUP, run) == "success":
        assert len(sets_of(stack)) == len(sets) + 1
    else:
        assert operator.wait_run(BACKUP, operator.trigger(BACKUP), timeout=300) == "success"


def sets_of(stack):
    return sorted(path.parent.name for path in (stack.backups / "openmanus").glob("*/manifest.json"))


def test_secrets_are_in_no_process_list_inspection_event_log_and_xcom(stack, operator):
    began = int(time.time())
    run = operator.trigger(BACKUP)
    seen = set()
    while operator.run_state(BACKUP, run) not in ENDED:
        for _ in range(10):
            seen |= {arguments(path) for path in Path("/proc").glob("[0-9]*/cmdline")}
            time.sleep(0.05)
    assert operator.run_state(BACKUP, run) == "success"
    shown = {"process lists": "\n".join(seen)}
    docker, containers = stack.engine.docker, stack.containers()
    ours = [name for name in containers if "-sample-" not in name]
    shown["inspections"] = docker("inspect", *ours)
    shown["events"] = docker("events", "--since", str(began), "--until", str(int(time.time())))
    shown["container logs"] = "".join(stack.engine.logs(name) for name in containers)
    shown["task logs"] = docker("exec", stack.container("api-server"), "sh", "-c", "cat $(find /opt/airflow/logs -name '*.log')")
    entries = operator.call("GET", f"/dags/{BACKUP}/dagRuns/{run}/taskInstances/~/xcomEntries", limit=1000)["xcom_entries"]
    keys = [(entry["task_id"], entry["key"]) for entry in entries]
    shown["xcoms"] = json.dumps([operator.xcom(BACKUP, run, *key) for key in keys])
    secrets = {"password of the servers": stack.secrets["SAMPLE_PASSWORD"]} | stack.private_keys
    for where, text in shown.items():
        for what, secret in secrets.items():
            assert secret not in text, f"{what} in {where}"
    assert "pg_dump " in shown["process lists"]
    assert BACKUP in shown["task logs"] + shown["container logs"]
    assert STDERR in shown["container logs"]
    assert STDERR not in "".join(docker("logs", name) for name in containers)


def arguments(path):
    try:
        return path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""  # it has ended


def test_worker_without_the_staging_volume_is_named_in_the_error(stack, operator):
    stack.compose("stop", "worker")
    stray = f"{stack.project}-stray"
    stack.compose("run", "--detach", "--no-deps", "--name", stray, "--volume", "/var/lib/recovery/staging", "worker")
    try:
        with dump_that_waits(stack, operator) as run:
            stack.engine.docker("kill", stray)
        stack.compose("up", "--detach", "--wait", "--no-build", "worker")
        assert operator.wait_run(BACKUP, run, timeout=300) == "failed"
        said = operator.log_text(BACKUP, run, "postgres_main.dump")
        assert "Let this worker mount the staging folder" in said
        assert hostname_of(operator, BACKUP, run, "postgres_main.dump") in said
    finally:
        stack.engine.docker("rm", "--force", "--volumes", stray)
        stack.compose("up", "--detach", "--wait", "--no-build", "worker")
