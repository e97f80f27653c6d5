import shutil
from contextlib import closing
from datetime import timedelta
from types import SimpleNamespace

import pytest

from recovery.common import units
from recovery.common.errors import RecoveryError, RestoreError
from recovery.maintenance import replaced_copies
from recovery.restore import answers, rollback
from recovery.restore.gate_texts import gate_text
from recovery.runs import journal
from recovery.runs.journal_steps import Step
from tests.support.restore_driver import maintain_daily, maintain_on, run_until, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

NOW = units.now


@pytest.fixture
def system(tmp_path):
    made = SampleSystem(tmp_path / "small", "small")
    made.back_up()
    made.disaster()
    return made


def restored(system, run_id, accepted=True):
    run = system.restore(run_id)
    if accepted:
        run_until(system, run)
    else:
        run_until(system, run, "check")
        answers.show(run, "accept", gate_text(run, "accept"))
        answers.reject(run, "accept", "bob")
    teardown(run)
    return run


def test_drop_old_copies_deletes_copies_of_ended_restores_after_keep_replaced(system, monkeypatch):
    first, second = restored(system, "first"), restored(system, "second", accepted=False)
    work = {run.id: system.storage / f".recovery-{run.id}" for run in (first, second)}
    replaced_copies.drop_old_copies(system.context())
    assert all(path.exists() for path in work.values())

    live = system.fingerprint()
    maintain_daily(system, monkeypatch)
    assert not any(path.exists() for path in work.values())
    assert system.leftovers() == []
    assert system.fingerprint() == live
    replaced_copies.drop_old_copies(system.context())


def test_drop_old_copies_keeps_copies_when_the_clock_jumps_ahead(system, monkeypatch):
    """For one day, and for the next; it goes on to count when the clock is right again."""
    work = system.storage / f".recovery-{restored(system, 'first').id}"
    for day in (1, 61, 62, 3, 4, 5):
        maintain_on(system, monkeypatch, day)
        assert (work / "before" / "new.txt").exists()
    for day in (6, 7):
        maintain_on(system, monkeypatch, day)
    assert not work.exists()


def test_drop_old_copies_keeps_copies_of_a_restore_that_ended_by_a_clock_far_behind(system, monkeypatch):
    long_ago = NOW() - timedelta(days=60)
    with monkeypatch.context() as patched:
        patched.setattr(journal, "datetime", SimpleNamespace(now=lambda zone: long_ago))
        run = restored(system, "first")
    assert run.journal.last(Step.CLOSED).time == long_ago
    replaced_copies.drop_old_copies(system.context())
    assert (system.storage / f".recovery-{run.id}" / "before" / "new.txt").exists()


def test_drop_old_copies_keeps_copies_of_a_restore_that_has_not_ended(system, monkeypatch):
    run = system.restore()
    run_until(system, run, "check")
    maintain_daily(system, monkeypatch, days=30)
    assert (system.storage / f".recovery-{run.id}" / "before" / "new.txt").exists()
    assert run.began


def test_drop_old_copies_continues_with_other_restores_after_a_failure(system, monkeypatch):
    runs = sorted((restored(system, name) for name in ("first", "second", "third")), key=lambda run: run.id)
    shutil.rmtree(runs[0].folder / "rows")
    (runs[0].folder / "findings.json").unlink()
    with pytest.raises(RestoreError, match=f"restore {runs[0].id}"):
        maintain_daily(system, monkeypatch)
    assert not (system.storage / f".recovery-{runs[1].id}").exists()
    assert not (system.storage / f".recovery-{runs[2].id}").exists()


@pytest.mark.parametrize("broken", ["journal", "request", "step"])
def test_drop_old_copies_continues_with_other_restores_after_an_unforeseen_error(system, monkeypatch, caplog, broken):
    runs = sorted((restored(system, name) for name in ("first", "second", "third")), key=lambda run: run.id)
    stranger = restored(system, "stranger")
    shutil.rmtree(stranger.folder)
    if broken == "request":
        (runs[0].folder / "request.json").write_text("{")
    elif broken == "journal":
        path = runs[0].folder / "journal.jsonl"
        path.write_text(path.read_text().replace('"closed"', '"shut"') + '{"step": 5}\n[]\n')
    else:
        drop = replaced_copies.drop
        monkeypatch.setattr(replaced_copies, "drop", lambda run: {}[run.id] if run.id == runs[0].id else drop(run))
    with pytest.raises(RestoreError, match=f"restore {runs[0].id}: "):
        maintain_daily(system, monkeypatch)
    assert (system.storage / f".recovery-{runs[0].id}").exists()
    assert not (system.storage / f".recovery-{runs[1].id}").exists()
    assert not (system.storage / f".recovery-{runs[2].id}").exists()
    assert f"copies of restores that staging does not know: {stranger.id}" in caplog.text


@pytest.mark.parametrize("only", [{}, {"postgres.main": ("copied.public.requests",)}], ids=["all", "a table"])
@pytest.mark.parametrize("accepted", [True, False])
def test_drop_old_copies_deletes_at_the_original_target_after_a_plan_change(
    tmp_path, postgres_server, mongo_server, monkeypatch, accepted, only
):
    system = SampleSystem(tmp_path / "copied", "copied", postgres=postgres_server, mongo=mongo_server, gates=("accept",))
    try:
        system.back_up()
        run = system.restore()
        with closing(system.postgres.connect()) as connection:
            connection.execute("CREATE DATABASE copied_elsewhere TEMPLATE copied")
        with system.mongo.client() as client:
            client.copied_elsewhere.states.insert_one({"_id": "there"})
        sources = ("postgres.main", "mongo.documents")
        request = system.ask(run, target="elsewhere", overwrite="elsewhere", sources=sources, only=only)
        run_until(system, run, "check", request)
        answers.show(run, "accept", gate_text(run, "accept"))
        if accepted:
            answers.approve(run, "accept", "bob")
            rollback.finalize(run)
        else:
            answers.reject(run, "accept", "bob")
        teardown(run)
        assert len(marked(system, run)) >= 2
        path = system.plans / "copied.yaml"
        path.write_text(path.read_text().replace("copied: copied_elsewhere", "copied: copied_moved"))
        maintain_daily(system, monkeypatch)
        assert marked(system, run) == []
    finally:
        system.drop()


def marked(system, run):
    """Databases, schemas and collections of the target with the restore's mark in their names."""
    found = []
    with closing(system.postgres.connect()) as connection:
        found += [name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()]
    with closing(system.postgres.connect("copied_elsewhere")) as connection:
        found += [name for (name,) in connection.execute("SELECT nspname FROM pg_namespace").fetchall()]
    with system.mongo.client() as client:
        found += client.copied_elsewhere.list_collection_names()
    return [name for name in found if run.id in name]


def test_drop_old_copies_names_a_source_that_left_the_plan(system, monkeypatch):
    run = restored(system, "first")
    path = system.plans / "small.yaml"
    kept = path.read_text()
    path.write_text("\n".join(line for line in kept.splitlines() if "files:" not in line and "uploads:" not in line))
    with pytest.raises(RecoveryError, match=r"no longer has files\.uploads"):
        maintain_daily(system, monkeypatch)
    path.write_text(kept)
    replaced_copies.drop_old_copies(system.context())
    assert not (system.storage / f".recovery-{run.id}").exists()


def test_drop_old_copies_names_a_target_that_left_the_plan(tmp_path, monkeypatch):
    system = SampleSystem(tmp_path / "small", "small", gates=())
    system.back_up()
    run = system.restore()
    run_until(system, run, request=system.ask(run, target="elsewhere"))
    assert teardown(run) == ""
    path = system.plans / "small.yaml"
    kept = path.read_text()
    path.write_text(kept[kept.index("plan: small") :])
    with pytest.raises(
        RestoreError, match=rf"no longer has config.settings, files.uploads at the target elsewhere, where restore {run.id} left"
    ):
        maintain_daily(system, monkeypatch)
    path.write_text(kept)
    replaced_copies.drop_old_copies(system.context())
    assert not (run.folder / "request.json").exists()


def test_drop_old_copies_reports_and_keeps_copies_of_an_unknown_restore(system, caplog):
    run = restored(system, "first")
    shutil.rmtree(run.folder)
    replaced_copies.drop_old_copies(system.context())
    assert f"copies of restores that staging does not know: {run.id}" in caplog.text
    assert (system.storage / f".recovery-{run.id}").exists()
