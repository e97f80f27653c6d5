"""Hooks on real servers: what they do, what their failure does, and when which of them is run."""

import json
import logging
import shutil
from contextlib import closing
from datetime import timedelta

import pytest

from recovery.backup import hooks as backup_hooks
from recovery.common.errors import ApprovalError, HookError, RestoreError, StagingError
from recovery.common.files import make_private, write_record
from recovery.plan.hooks import Hook
from recovery.restore import hooks as restore_hooks
from recovery.restore import rollback
from recovery.runners import commands
from recovery.runs import hooks as runs_hooks
from sandbox.servers import wait_for
from tests.support.restore_driver import journal_steps, refused_by_preflight, run_until, steps, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

SQL = {"source": "postgres.main", "database": "hooked"}
MONGO = {"source": "mongo.documents", "database": "hooked"}


@pytest.fixture(scope="module")
def system(tmp_path_factory, postgres_server, mongo_server):
    made = SampleSystem(tmp_path_factory.mktemp("hooks") / "small", "hooked", postgres=postgres_server, mongo=mongo_server)
    made.sql("CREATE ROLE hooked_owner; ALTER DATABASE hooked OWNER TO hooked_owner; ALTER TABLE requests OWNER TO hooked_owner")
    yield made
    made.drop()
    with closing(postgres_server.connect()) as connection:
        connection.execute("DROP ROLE hooked_owner")


def numbered(*found):
    return [(f"before_backup.{number}", hook) for number, hook in enumerate(found)]


def run(system, *found):
    runs_hooks.run_all(numbered(*found), system.context())


def sql(statement, seconds=20):
    return Hook(sql=SQL | {"statement": statement}, timeout=timedelta(seconds=seconds))


def mongo(command, seconds=20):
    return Hook(mongo=MONGO | {"command": command}, timeout=timedelta(seconds=seconds))


def value(system, query):
    with closing(system.postgres.connect(system.name)) as connection:
        return connection.execute(query).fetchone()[0]


def test_hook_of_each_kind_runs_and_logs_its_output(system, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    statement = """CREATE TABLE noted (what text); INSERT INTO noted VALUES ('50% done'), ('all done');
        DO $$BEGIN RAISE NOTICE 'heard by the log'; END$$; SELECT what, 1 FROM noted"""
    run(
        system,
        Hook(argv=("sh", "-c", f"seq 2000; touch {tmp_path}/made # hush-hush")),
        sql(statement),
        mongo({"insert": "noted", "documents": [{"_id": 1, "when": {"$date": "2026-11-23T00:00:00Z"}}]}),
    )
    assert (tmp_path / "made").exists()
    assert value(system, "SELECT count(*) FROM noted") == 2
    with system.mongo.client() as client:
        assert client["hooked"]["noted"].find_one()["when"].year == 2026
    for words in (
        "1\n2\n3\n",
        "\n2000",
        "INSERT 0 2",
        "heard by the log",
        "all done | 1",
        '"n": 1',
        "hook before_backup.2: insert in hooked",
    ):
        assert words in caplog.text
    assert "hush-hush" not in caplog.text, "arguments may be secret"


def test_sql_hook_runs_outside_a_transaction(system):
    run(system, sql("VACUUM requests"))


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (Hook(argv=("sh", "-c", "echo why; exit 3")), r"The hook before_backup.1 \(sh\) failed: why"),
        (Hook(argv=("sleep", "99"), timeout=timedelta(seconds=1)), "did not end within 1.0 s"),
        (sql("SELECT count(*) FROM nowhere"), r"SQL in hooked of postgres.main\) failed: .* relation \"nowhere\" does not exist"),
        (mongo({"nonsense": 1}), "nonsense in hooked of mongo.documents.* no such command"),
        (mongo({"insert": "twice", "documents": [{"_id": 1}, {"_id": 1}]}), "1 parts of the command failed: E11000 duplicate key"),
    ],
    ids=["command", "slow command", "sql", "mongo", "part of a mongo command"],
)
def test_run_all_stops_at_the_first_failed_hook(system, tmp_path, failing, words):
    first, third = (Hook(argv=("touch", str(tmp_path / name))) for name in ("first", "third"))
    with pytest.raises(HookError, match=words) as failed:
        run(system, first, failing, third)
    assert [path.name for path in tmp_path.iterdir()] == ["first"]
    assert not failed.value.retryable


def test_sql_hook_that_exceeds_the_timeout_ends_at_the_server_too(system):
    system.sql("CREATE TABLE late (n int)")
    with pytest.raises(HookError):
        run(system, sql("SELECT pg_sleep(0.7); SELECT pg_sleep(0.7); INSERT INTO late VALUES (1); SELECT pg_sleep(0.7)", 1))
    running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(0.7)%' AND state = 'active'"
    wait_for("the statements to end", lambda: value(system, running) == 0)
    assert value(system, "SELECT count(*) FROM late") == 0


def test_mongo_hook_that_exceeds_the_timeout_ends_at_the_server_too(system):
    slow = {"update": "states", "updates": [{"q": {"$where": "sleep(50) || true"}, "u": {"$set": {"n": 1}}, "multi": True}]}
    with pytest.raises(HookError):
        run(system, mongo(slow, 1))
    with system.mongo.client() as client:
        ops = {"$match": {"ns": "hooked.states", "active": True}}
        wait_for("the update to end", lambda: not list(client.admin.aggregate([{"$currentOp": {}}, ops])))


# Around backups -----------------------------------------------------------------------------------------------------

HOOKS = """\
hooks:
  before_backup: [{{argv: ["{service}", hook, before]}}]
  after_backup: [{{argv: ["{service}", hook, after]}}, {{argv: ["{service}", hook, last]}}]
  after_failed_backup: [{{argv: ["{service}", hook, alarm]}}]
  before_restore: [{{argv: ["{service}", hook, freeze]}}, {{argv: ["{service}", hook, announce]}}]
  after_restore: [{{argv: ["{service}", hook, thaw]}}, {{argv: ["{service}", hook, tell]}}]
targets:
  elsewhere: {{sources: {{files: {{uploads: {{path: "{folder}/elsewhere"}}}}}}}}
"""


@pytest.fixture
def hooked(tmp_path):
    folder = tmp_path / "small"
    return SampleSystem(folder, more=HOOKS.format(folder=folder, service=folder / "service"))


def hook_calls(system):
    """The hooks that ran, in order."""
    return [line.removeprefix("hook ") for line in system.service_calls if line.startswith("hook ")]


def after(system, set_id, failed=(), sources=None):
    backup_hooks.after_backup(system.context(), set_id, sources or system.plan().source_ids, failed)


def test_before_backup_hook_runs_and_raises_its_failure(hooked):
    backup_hooks.before_backup(hooked.context())
    assert hook_calls(hooked) == ["before"]
    hooked.fail("hook", "before")
    with pytest.raises(HookError, match="before does not hook, on purpose"):
        backup_hooks.before_backup(hooked.context())


def test_after_failed_backup_hook_is_skipped_after_a_complete_backup(hooked):
    after(hooked, hooked.back_up())
    assert hook_calls(hooked) == ["after", "last"]


def test_after_failed_backup_hook_is_skipped_after_a_backup_of_selected_sources(hooked):
    after(hooked, hooked.back_up(sources=("config.settings",)), sources=("config.settings",))
    assert hook_calls(hooked) == ["after", "last"]


def test_after_failed_backup_hook_runs_when_the_set_lacks_a_source(hooked):
    set_id = hooked.back_up(sources=("config.settings",))
    with pytest.raises(StagingError, match=r"near has no files.uploads of set .* far has no .* These tasks failed: files_uploads.dump"):
        after(hooked, set_id, failed=["files_uploads.dump"])
    assert hook_calls(hooked) == ["after", "last", "alarm"]


def test_after_failed_backup_hook_runs_when_a_destination_lacks_the_set(hooked):
    set_id = hooked.back_up()
    shutil.rmtree(hooked.folder / "far" / "small")
    with pytest.raises(StagingError, match=r"The backup did not succeed\. far has no config.settings, files.uploads of set"):
        after(hooked, set_id)
    assert hook_calls(hooked) == ["after", "last", "alarm"]


def test_after_backup_fails_when_the_manifest_at_a_destination_was_changed(hooked):
    set_id = hooked.back_up()
    path = hooked.folder / "far" / "small" / set_id / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"hold"', b'"hOld"'))
    with pytest.raises(StagingError, match="far has no"):
        after(hooked, set_id)
    assert hook_calls(hooked) == ["after", "last", "alarm"]


def test_after_failed_backup_hook_runs_when_a_destination_cannot_be_read(hooked):
    set_id = hooked.back_up()
    (hooked.folder / "far").rename(hooked.folder / "away")
    with pytest.raises(StagingError, match=r"Whether far has the set|far has no"):
        after(hooked, set_id)
    assert hook_calls(hooked) == ["after", "last", "alarm"]


def test_after_backup_fails_when_a_task_failed_beside_a_complete_set(hooked):
    with pytest.raises(StagingError, match=r"These tasks failed: prune\.far"):
        after(hooked, hooked.back_up(), failed=["prune.far"])
    assert hook_calls(hooked) == ["after", "last"]


def test_after_backup_hooks_run_on_after_a_failed_hook(hooked):
    set_id = hooked.back_up()
    hooked.fail("hook", "after")
    with pytest.raises(HookError, match=r"after_backup.0 .* after does not hook, on purpose"):
        after(hooked, set_id)
    assert hook_calls(hooked) == ["last"]


@pytest.fixture
def unforeseen(monkeypatch):
    """Let the hooks with a word in their command fail as no hook should."""

    def fail(word):
        def run_one(command, *rest):
            if word in command:
                raise LookupError("nobody thought of this")
            return commands.run_one(command, *rest)

        monkeypatch.setattr(runs_hooks, "run_one", run_one)

    return fail


def test_after_backup_hooks_run_on_after_an_unforeseen_error(hooked, unforeseen, caplog):
    set_id = hooked.back_up()
    unforeseen("after")
    with pytest.raises(HookError, match=r"The hook after_backup.0 \(service\) failed: LookupError, see the log"):
        after(hooked, set_id)
    assert hook_calls(hooked) == ["last"]
    assert "nobody thought of this" in caplog.text


# Around restores ----------------------------------------------------------------------------------------------------


def until(system, run, last):
    """Take a restore's steps up to one, with the hooks before the cutover in their place."""
    for name, step in steps(system, run):
        if name == "stop services":
            restore_hooks.before_restore(run)
        step()
        if name == last:
            return


def ended(run):
    """The teardowns, with the hooks after the restore in their place; what failed."""
    faults = []
    for step in (rollback.roll_back, restore_hooks.after_restore):
        try:
            step(run)
        except Exception as error:  # noqa: BLE001
            faults.append(str(error))
    return "\n".join([*faults, teardown(run)]).strip()


def test_restore_hooks_run_before_services_stop_and_after_the_checks(hooked):
    hooked.back_up()
    run = hooked.restore()
    until(hooked, run, "finalize")
    assert hooked.service_calls.index("hook announce") < hooked.service_calls.index("stop web")
    assert ended(run) == ""
    assert hooked.service_calls.index("hook thaw") > hooked.service_calls.index("check web")
    assert hook_calls(hooked) == ["freeze", "announce", "thaw", "tell"]
    assert "is done" not in " ".join(json.dumps(entry.facts) for entry in run.journal.entries("hook") + run.journal.entries("hook done"))
    assert restore_hooks.after_restore(run) is False, "the restore has ended"


def test_after_restore_hooks_are_skipped_when_cutover_was_not_reached(hooked):
    hooked.back_up()
    run = hooked.restore()
    until(hooked, run, "verify files.uploads")
    with pytest.raises(ApprovalError):
        restore_hooks.before_restore(run)
    assert restore_hooks.after_restore(run) is False
    ended(run)
    assert hook_calls(hooked) == []


def test_before_restore_hook_failure_leaves_live_unchanged_and_after_restore_hooks_run(hooked):
    hooked.back_up()
    before = hooked.fingerprint()
    hooked.fail("hook", "announce")
    run = hooked.restore()
    with pytest.raises(HookError, match=r"before_restore.1 \(service\) failed: announce does not hook, on purpose"):
        until(hooked, run, "finalize")
    assert "Nothing live was replaced" in ended(run)
    assert hook_calls(hooked) == ["freeze", "thaw", "tell"]
    assert not any(line.startswith("stop") for line in hooked.service_calls)
    assert hooked.fingerprint() == before
    assert hooked.leftovers() == []


def test_after_restore_hooks_run_when_cutover_began_without_before_restore_hooks(hooked):
    hooked.back_up()
    run = hooked.restore()
    for name, step in steps(hooked, run):
        step()
        if name == "stop services":
            break
    ended(run)
    assert hook_calls(hooked) == ["thaw", "tell"]


def test_after_restore_hooks_run_again_repeat_only_the_failed_hook(hooked):
    hooked.back_up()
    run = hooked.restore()
    until(hooked, run, "finalize")
    hooked.fail("hook", "thaw")
    with pytest.raises(HookError, match="thaw does not hook, on purpose"):
        restore_hooks.after_restore(run)
    assert hook_calls(hooked) == ["freeze", "announce", "tell"]
    assert restore_hooks.undone_after_restore(run) == ["after_restore.0"]
    hooked.mend("hook", "thaw")
    assert restore_hooks.after_restore(run) is True
    assert hook_calls(hooked) == ["freeze", "announce", "tell", "thaw"]
    assert restore_hooks.undone_after_restore(run) == []


def test_after_restore_hooks_run_on_after_an_unforeseen_error(hooked, unforeseen):
    hooked.back_up()
    unforeseen("thaw")
    run = hooked.restore()
    until(hooked, run, "finalize")
    with pytest.raises(HookError, match=r"after_restore.0 .* LookupError"):
        restore_hooks.after_restore(run)
    assert hook_calls(hooked) == ["freeze", "announce", "tell"]
    assert restore_hooks.undone_after_restore(run) == ["after_restore.0"]


@pytest.mark.parametrize("marked", [False, True], ids=["fails", "is never run"])
def test_report_fails_an_accepted_restore_with_undone_after_restore_hooks(hooked, marked):
    hooked.back_up()
    run = hooked.restore()
    until(hooked, run, "finalize")
    hooked.fail("hook", "tell")
    words = teardown(run) if marked else ended(run)
    undone = "after_restore.0, after_restore.1" if marked else "after_restore.1"
    assert f"these hooks after it failed or did not run: {undone}." in words
    assert run.journal.closed


def test_before_restore_hooks_are_refused_once_cutover_or_rollback_began(hooked):
    hooked.back_up()
    run = hooked.restore()
    until(hooked, run, "stop services")
    with pytest.raises(RestoreError, match="too late"):
        restore_hooks.before_restore(run)
    rollback.roll_back(run)
    with pytest.raises(RestoreError, match="being rolled back"):
        restore_hooks.before_restore(run)
    assert hook_calls(hooked) == ["freeze", "announce"]


@pytest.mark.parametrize("asked", [{"drill": True}, {"dry_run": True}, {"target": "elsewhere"}], ids=lambda asked: next(iter(asked)))
def test_restore_hooks_are_skipped_for_drill_dry_run_and_other_target(hooked, asked):
    run = hooked.restore()
    make_private(run.folder)
    write_record(run.folder / "request.json", hooked.ask(run, **asked))
    run.journal.record("chosen")
    run.journal.record("stopping services")
    assert restore_hooks.before_restore(run) is False
    assert restore_hooks.after_restore(run) is False
    assert hook_calls(hooked) == []
    assert journal_steps(run) == ["chosen", "stopping services"]


def test_preflight_refuses_sql_hooks_that_will_fail_and_warns_of_such_checks(system):
    system.back_up()
    asked = "source: postgres.main, database: hooked, {}, as: {}"
    hook = f"hooks:\n  before_restore: [{{sql: {{{asked.format('statement: SELECT 1', 'postgres')}}}}}]\n"
    check = f"  - {{name: asked, sql: {{{asked.format('query: SELECT 1, equals: 1', 'nobody')}}}}}\n"
    system.write_plan(more=hook)
    system.edit_plan("checks:\n", f"checks:\n{check}")
    run = system.restore()
    words = refused_by_preflight(run, system.ask(run))
    assert "before_restore.0 (SQL in hooked of postgres.main) would fail: SQL is to run as postgres in hooked, who is a superuser" in words
    system.write_plan(more="")
    system.edit_plan("checks:\n", f"checks:\n{check}")
    run = system.restore("restore 2")
    run_until(system, run, "preflight")
    assert "⚠ The check asked would fail: SQL is to run as nobody in hooked, and the server has no such role" in run.findings().text
    teardown(run)
    system.write_plan()


def test_preflight_of_tables_beside_judges_no_hooks_and_checks_since_none_runs(system):
    system.back_up()
    hook = "{sql: {source: postgres.main, database: hooked, statement: SELECT 1, as: postgres}}"
    system.write_plan(more=f"hooks:\n  before_restore: [{hook}]\n")
    check = "{name: asked, sql: {source: postgres.main, database: hooked, query: SELECT 1, equals: 1, as: nobody}}"
    system.edit_plan("checks:\n", f"checks:\n  - {check}\n")
    run = system.restore("restore 3")
    only = {"postgres.main": ("hooked.public.requests",)}
    run_until(system, run, "preflight", system.ask(run, method="beside", sources=("postgres.main",), only=only))
    assert "would fail" not in run.findings().text
    teardown(run)
    system.write_plan()
