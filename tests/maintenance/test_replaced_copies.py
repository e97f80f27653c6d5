import shutil
from contextlib import closing
from datetime import timedelta

import pytest

from recovery.common import units
from recovery.common.errors import RecoveryError, RestoreError
from recovery.maintenance import replaced_copies
from recovery.restore import answers, rollback
from recovery.restore.gate_texts import gate_text
from tests.support.small import Small, end, forward

NOW = units.now


@pytest.fixture
def small(tmp_path):
    made = Small(tmp_path / "small", "small")
    made.back_up()
    made.disaster()
    return made


def restored(small, run_id, accepted=True):
    run = small.restore(run_id)
    if accepted:
        forward(small, run)
    else:
        forward(small, run, "check")
        answers.show(run, "accept", gate_text(run, "accept"))
        answers.reject(run, "accept", "bob")
    end(run)
    return run


def days_later(monkeypatch, days):
    monkeypatch.setattr(replaced_copies, "now", lambda: NOW() + timedelta(days=days))


def test_each_restore_has_its_own_days(small, monkeypatch):
    first, second = restored(small, "first"), restored(small, "second", accepted=False)
    work = {run.id: small.storage / f".recovery-{run.id}" for run in (first, second)}
    replaced_copies.drop_old(small.context())
    assert all(path.exists() for path in work.values())

    live = small.fingerprint()
    days_later(monkeypatch, 8)
    replaced_copies.drop_old(small.context())
    assert not any(path.exists() for path in work.values())
    assert small.leftovers() == []
    assert small.fingerprint() == live
    replaced_copies.drop_old(small.context())


def test_a_restore_that_has_not_ended_keeps_its_copies(small, monkeypatch):
    run = small.restore()
    forward(small, run, "check")
    days_later(monkeypatch, 30)
    replaced_copies.drop_old(small.context())
    assert (small.storage / f".recovery-{run.id}" / "before" / "new.txt").exists()
    assert run.began


def test_one_that_fails_does_not_keep_the_others(small, monkeypatch):
    runs = sorted((restored(small, name) for name in ("first", "second", "third")), key=lambda run: run.id)
    shutil.rmtree(runs[0].folder / "rows")
    (runs[0].folder / "findings.json").unlink()
    days_later(monkeypatch, 8)
    with pytest.raises(RestoreError, match=f"restore {runs[0].id}"):
        replaced_copies.drop_old(small.context())
    assert not (small.storage / f".recovery-{runs[1].id}").exists()
    assert not (small.storage / f".recovery-{runs[2].id}").exists()


@pytest.mark.parametrize("broken", ["journal", "request", "step"])
def test_one_that_fails_as_nobody_foresaw_does_not_keep_the_others(small, monkeypatch, caplog, broken):
    runs = sorted((restored(small, name) for name in ("first", "second", "third")), key=lambda run: run.id)
    stranger = restored(small, "stranger")
    shutil.rmtree(stranger.folder)
    if broken == "request":
        (runs[0].folder / "request.json").write_text("{")
    elif broken == "journal":
        path = runs[0].folder / "journal.jsonl"
        path.write_text(path.read_text().replace('"closed"', '"shut"') + '{"step": 5}\n[]\n')
    else:
        drop = replaced_copies.drop
        monkeypatch.setattr(replaced_copies, "drop", lambda run: {}[run.id] if run.id == runs[0].id else drop(run))
    days_later(monkeypatch, 8)
    with pytest.raises(RestoreError, match=f"restore {runs[0].id}: "):
        replaced_copies.drop_old(small.context())
    assert (small.storage / f".recovery-{runs[0].id}").exists()
    assert not (small.storage / f".recovery-{runs[1].id}").exists()
    assert not (small.storage / f".recovery-{runs[2].id}").exists()
    assert f"copies of restores that staging does not know: {stranger.id}" in caplog.text


@pytest.mark.parametrize("only", [{}, {"postgres.main": ("copied.public.requests",)}], ids=["all", "a table"])
@pytest.mark.parametrize("accepted", [True, False])
def test_copies_are_removed_where_they_are_and_not_where_the_plan_would_have_them_now(
    tmp_path, postgres_server, mongo_server, monkeypatch, accepted, only
):
    small = Small(tmp_path / "copied", "copied", postgres=postgres_server, mongo=mongo_server, gates=("accept",))
    try:
        small.back_up()
        run = small.restore()
        with closing(small.postgres.connect()) as connection:
            connection.execute("CREATE DATABASE copied_elsewhere TEMPLATE copied")
        with small.mongo.client() as client:
            client.copied_elsewhere.states.insert_one({"_id": "there"})
        sources = ("postgres.main", "mongo.documents")
        request = small.ask(run, target="elsewhere", overwrite="elsewhere", sources=sources, only=only)
        forward(small, run, "check", request)
        answers.show(run, "accept", gate_text(run, "accept"))
        if accepted:
            answers.approve(run, "accept", "bob")
            rollback.keep(run)
        else:
            answers.reject(run, "accept", "bob")
        end(run)
        assert len(marked(small, run)) >= 2
        path = small.plans / "copied.yaml"
        path.write_text(path.read_text().replace("copied: copied_elsewhere", "copied: copied_moved"))
        days_later(monkeypatch, 8)
        replaced_copies.drop_old(small.context())
        assert marked(small, run) == []
    finally:
        small.drop()


def marked(small, run):
    """Databases, schemas and collections of the target with the restore's mark in their names."""
    found = []
    with closing(small.postgres.connect()) as connection:
        found += [name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()]
    with closing(small.postgres.connect("copied_elsewhere")) as connection:
        found += [name for (name,) in connection.execute("SELECT nspname FROM pg_namespace").fetchall()]
    with small.mongo.client() as client:
        found += client.copied_elsewhere.list_collection_names()
    return [name for name in found if run.id in name]


def test_a_source_that_left_the_plan_is_named(small, monkeypatch):
    run = restored(small, "first")
    path = small.plans / "small.yaml"
    kept = path.read_text()
    path.write_text("\n".join(line for line in kept.splitlines() if "files:" not in line and "uploads:" not in line))
    days_later(monkeypatch, 8)
    with pytest.raises(RecoveryError, match=r"no longer has files\.uploads"):
        replaced_copies.drop_old(small.context())
    path.write_text(kept)
    replaced_copies.drop_old(small.context())
    assert not (small.storage / f".recovery-{run.id}").exists()


def test_a_target_that_left_the_plan_is_named(tmp_path, monkeypatch):
    small = Small(tmp_path / "small", "small", gates=())
    small.back_up()
    run = small.restore()
    forward(small, run, request=small.ask(run, target="elsewhere"))
    assert end(run) == ""
    path = small.plans / "small.yaml"
    kept = path.read_text()
    path.write_text(kept[kept.index("plan: small") :])
    days_later(monkeypatch, 8)
    with pytest.raises(
        RestoreError, match=rf"no longer has config.settings, files.uploads at the target elsewhere, where restore {run.id} left"
    ):
        replaced_copies.drop_old(small.context())
    path.write_text(kept)
    replaced_copies.drop_old(small.context())
    assert not (run.folder / "request.json").exists()


def test_copies_that_nobody_knows_are_named(small, caplog):
    run = restored(small, "first")
    shutil.rmtree(run.folder)
    replaced_copies.drop_old(small.context())
    assert f"copies of restores that staging does not know: {run.id}" in caplog.text
    assert (small.storage / f".recovery-{run.id}").exists()
