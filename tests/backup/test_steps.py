"""The steps of a backup on one source, called as Airflow's tasks call them."""

import json
import os
import shutil
import signal
import subprocess
from contextlib import closing as closed_after
from dataclasses import replace
from threading import Thread

import pytest

from recovery.backup import cold, finalize, steps
from recovery.backup.steps import Work, compress, dump, verify
from recovery.common.errors import ArtifactError, ConnectionUnusable, RecoveryError, SourceError, StagingError
from recovery.crypto.key_kit import create_keys
from recovery.packs.artifact import read_listing, write_listing
from sandbox.servers import postgres_bin, wait_for
from tests.support.sets import run_python
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

STEPS = (dump, compress, verify)


@pytest.fixture
def system(tmp_path):
    return SampleSystem(tmp_path / "small", "small")


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    made = SampleSystem(tmp_path / "whole", "whole", postgres=postgres_server, mongo=mongo_server)
    yield made
    made.drop()


def work_on(system, source_id="files.uploads", staged=None, connect=None):
    return Work(system.context(connect=connect), staged or system.begin_backup(sources=(source_id,)), source_id)


def files_below(folder):
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


# Steps --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source_id", ["config.settings", "postgres.main", "mongo.documents", "files.uploads"])
def test_backup_steps_run_again_on_a_verified_source_change_no_file(whole, source_id):
    work = work_on(whole, source_id)
    for step in STEPS:
        step(work)
    assert work.verified_record().level == "decoded"
    assert sum(work.verified_record().counts.values()) > 0
    there = files_below(work.staged.folder)
    assert any(name.endswith(".age") for name in there)
    for step in STEPS:
        step(work)
    assert files_below(work.staged.folder) == there


def test_compress_deletes_the_raw_dump_and_keeps_the_dump_record(whole):
    work = work_on(whole, "postgres.main")
    dump(work)
    (roots,) = [[artifact.root for artifact in work.dump_record().artifacts]]
    assert all(map(os.path.isdir, roots))
    compress(work)
    assert not any(map(os.path.isdir, roots))
    assert {artifact.name for artifact in work.dump_record().artifacts} == {"whole", "globals"}
    verify(work)


def test_compress_and_verify_refuse_to_run_before_the_previous_step(system):
    work = work_on(system)
    for step in (compress, verify):
        with pytest.raises(StagingError, match=r"dump\.json is not there"):
            step(work)
    dump(work)
    with pytest.raises(StagingError, match=r"sealed\.json is not there"):
        verify(work)


def test_dump_failure_leaves_only_the_failed_mark_until_a_dump_succeeds(whole):
    work = work_on(whole, "postgres.main")
    with closed_after(whole.postgres.connect()) as connection:
        connection.execute("ALTER DATABASE whole RENAME TO elsewhere")
    try:
        with pytest.raises(SourceError, match="no database whole"):
            dump(work)
    finally:
        with closed_after(whole.postgres.connect()) as connection:
            connection.execute("ALTER DATABASE elsewhere RENAME TO whole")
    assert sorted(path.name for path in work.folder.iterdir()) == ["failed"]
    dump(work)
    assert not (work.folder / "failed").exists()


def test_dump_replaces_partial_files_of_a_killed_dump(system):
    work = work_on(system)
    work.dump_folder.mkdir(parents=True)
    (work.dump_folder / "uploads.inventory.jsonl").write_text("half a li")
    (work.dump_folder / "dump.json.partial").write_text("{")
    for step in STEPS:
        step(work)
    assert not (work.dump_folder / "dump.json.partial").exists()


def test_compress_replaces_partial_packs_of_a_killed_compress(system):
    work = work_on(system)
    dump(work)
    work.pack_folder.mkdir(parents=True)
    for name in ("uploads.000.tar.zst.age", "uploads.077.tar.zst.age", "uploads.000.tar.zst.age.partial"):
        (work.pack_folder / name).write_bytes(b"of another try")
    compress(work)
    sealed = {pack.file for packs in work.sealed_record().packs.values() for pack in packs}
    assert {path.name for path in work.pack_folder.iterdir()} == sealed
    verify(work)


def test_verify_fails_on_a_damaged_pack(system):
    work = work_on(system)
    dump(work)
    compress(work)
    pack = max(work.pack_folder.glob("*.age"))
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged"):
        verify(work)
    assert not work.verified


def test_verify_names_a_missing_pack(system):
    work = work_on(system)
    dump(work)
    compress(work)
    max(work.pack_folder.glob("*.age")).unlink()
    with pytest.raises(RecoveryError, match=r"uploads\.\d+\.tar\.zst\.age"):
        verify(work)


@pytest.mark.parametrize(("source_id", "lost"), [("config.settings", b"flow.py"), ("files.uploads", b"top.txt")])
def test_verify_fails_when_the_packs_lack_an_entry_of_the_inventory(system, source_id, lost):
    work = work_on(system, source_id)
    dump(work)
    (artifact,) = work.dump_record().artifacts
    listing = work.dump_folder / artifact.listing
    kept = [member for member in read_listing(listing) if not member.path.endswith(lost)]
    write_listing(listing, kept)
    compress(work)
    with pytest.raises(ArtifactError, match=lost.decode()):
        verify(work)
    assert not work.verified


def test_verify_with_wrong_identity_fails(system, tmp_path):
    stranger = create_keys(tmp_path / "stranger", "stranger")
    strange = json.loads((stranger.folder / "connections.json").read_text())["stranger_backup_identity"]
    work = work_on(system)
    dump(work)
    compress(work)

    def connect(name):
        endpoint = system.connect(name)
        return endpoint if "identity" not in name else type(endpoint)(id=name, password=strange["password"])

    with pytest.raises(ArtifactError, match="identity does not open"):
        verify(work_on(system, staged=work.staged, connect=connect))


def test_verify_without_identity_reaches_only_the_checksum_level(system):
    path = system.plans / "small.yaml"
    path.write_text(path.read_text().replace(", identity: small_backup_identity", "") + "verification: checksum\n")
    work = work_on(system)
    for step in STEPS:
        step(work)
    assert work.verified_record().level == "stored"
    pack = max(work.pack_folder.glob("*.age"))
    (work.folder / "verified.json").unlink()
    pack.write_bytes(pack.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        verify(work)


# A closed set, an empty source --------------------------------------------------------------------------------------


def test_backup_steps_refuse_a_closed_set(system):
    staged = system.begin_backup()
    done, late = work_on(system, "config.settings", staged), work_on(system, "files.uploads", staged)
    for step in STEPS:
        step(done)
    for step in (dump, compress):
        step(late)
    finalize.close(system.context(), staged)
    for step in STEPS:
        with pytest.raises(StagingError, match="is closed: its manifest is written"):
            step(late)
    assert not late.verified


def test_verify_fails_for_a_source_that_became_empty_unless_allow_empty_is_set(system):
    system.back_up()
    shutil.rmtree(system.storage)
    system.storage.mkdir()
    work = work_on(system, staged=system.begin_backup("second"))
    dump(work)
    compress(work)
    with pytest.raises(SourceError, match="records in the last valid set, and has none now"):
        verify(work)
    accepted = work_on(system, staged=system.begin_backup("third", allow_empty=True))
    for step in STEPS:
        step(accepted)
    assert accepted.verified


def test_backup_of_a_source_that_was_always_empty_succeeds(system):
    shutil.rmtree(system.storage)
    system.storage.mkdir()
    system.back_up()
    system.back_up("second")


def every_database(whole):
    """The plan as it is without names of databases."""
    path = whole.plans / "whole.yaml"
    path.write_text(path.read_text().replace(", databases: [whole]", ""))


@pytest.fixture
def second_database(whole):
    """Another database on each server, and how to empty or drop it."""
    every_database(whole)
    with closed_after(whole.postgres.connect()) as connection, whole.mongo.client() as client:
        connection.execute("CREATE DATABASE whole_eu")
        with closed_after(whole.postgres.connect("whole_eu")) as inside:
            inside.execute("CREATE TABLE orders AS SELECT generate_series(1, 30) AS id")
        client.whole_eu.orders.insert_many([{"_id": number} for number in range(40)])

        def dropped():
            connection.execute("DROP DATABASE IF EXISTS whole_eu WITH (FORCE)")
            client.drop_database("whole_eu")

        def emptied():
            with closed_after(whole.postgres.connect("whole_eu")) as inside:
                inside.execute("DELETE FROM orders")
            client.whole_eu.orders.delete_many({})

        yield {"is gone now": dropped, "has none now": emptied}
        dropped()


@pytest.mark.parametrize("words", ["is gone now", "has none now"])
def test_verify_fails_for_a_lost_database_unless_allow_empty_or_not_in_plan(whole, second_database, words):
    whole.back_up()
    second_database[words]()
    before = {"postgres.main": 30, "mongo.documents": 40}
    staged = whole.begin_backup("second")
    for source_id, count in before.items():
        work = work_on(whole, source_id, staged)
        assert work.staged.run().previous[source_id]["whole_eu"] == count
        dump(work)
        compress(work)
        said = f"whole_eu had {count} records in the last valid set, and {words}"
        if source_id == "mongo.documents" and words == "has none now":  # as a queue has in the morning
            verify(work)
            assert work.verified_record().emptied == (said,)
            continue
        with pytest.raises(SourceError, match=said):
            verify(work)
    for run_id, allow_empty in (("accepted", True), ("not asked for", False)):
        staged = whole.begin_backup(run_id, allow_empty=allow_empty)
        for source_id in before:
            for step in STEPS:
                step(work_on(whole, source_id, staged))
        whole.write_plan()  # names its database


# What is read where it is -------------------------------------------------------------------------------------------


def emptied(path):
    """As if what is mounted there were gone."""
    path.rename(path.with_name("away"))
    path.mkdir()


@pytest.mark.parametrize(
    ("source_id", "path", "lose", "words"),
    [
        ("files.uploads", "storage", emptied, "was another folder or file system when it was listed"),
        ("files.uploads", "storage", shutil.rmtree, "can't be looked at now: No such file"),
        ("config.settings", "custom", emptied, "was another folder or file system when it was listed"),
        ("config.settings", ".env", os.unlink, "can't be looked at now: No such file"),
    ],
)
@pytest.mark.parametrize("when", ["before packing", "while packing"])
def test_compress_fails_when_a_path_was_replaced_or_deleted_after_the_dump(system, monkeypatch, source_id, path, lose, words, when):
    work = work_on(system, source_id)
    dump(work)
    if when == "before packing":
        lose(system.home / path)
    else:
        seal = steps.seal
        monkeypatch.setattr(steps, "seal", lambda *args, **how: (seal(*args, **how), lose(system.home / path))[0])
    with pytest.raises(SourceError, match=f"{system.home}/{path} .*{words}.*clear the dump task"):
        compress(work)
    assert not list(work.staged.set_folder.rglob("*.age"))


def test_dump_run_again_lists_the_folder_again(system):
    work = work_on(system)
    dump(work)
    emptied(system.storage)
    (system.storage / "new").touch()
    for step in STEPS:
        step(work)
    assert work.verified_record().counts == {"uploads": 1}


def test_compress_packs_a_replaced_settings_file_and_the_change_is_reported(system):
    work = work_on(system, "config.settings")
    dump(work)
    (system.home / "new").write_text("MODE=test\n")
    (system.home / "new").rename(system.home / ".env")
    compress(work)
    verify(work)
    (changed,) = work.verified_record().changed
    assert changed.endswith(".env: changed while read")


def test_compress_fails_on_a_lost_mount_and_succeeds_after_a_remount(system):
    place = system.storage / "year0" / "mounted"
    place.mkdir()

    def mount(*how):
        return subprocess.run([*how, place], check=False, capture_output=True).returncode

    if mount("mount", "-t", "tmpfs", "tmpfs"):
        pytest.skip("only root mounts")
    try:
        (place / "inside").write_text("as listed")
        work = work_on(system)
        dump(work)
        mount("umount")
        with pytest.raises(SourceError, match="year0/mounted was another folder or file system when it was listed"):
            compress(work)
        mount("mount", "-t", "tmpfs", "tmpfs")
        (place / "inside").write_text("as listed")
        compress(work)
        verify(work)
        assert work.verified_record().changed == ("year0/mounted/inside: changed while read",)
    finally:
        mount("umount")


@pytest.mark.parametrize(("uploads", "gone", "refused"), [(10, 10, False), (11, 11, True), (300, 30, False), (300, 40, True)])
def test_compress_accepts_few_vanished_entries_and_refuses_many(system, uploads, gone, refused):
    names = [system.storage / f"upload {number}" for number in range(uploads)]
    for name in names:
        name.touch()
    work = work_on(system)
    dump(work)
    for name in names[:gone]:
        name.unlink()
    if refused:
        with pytest.raises(SourceError, match=rf"{gone} of \d+ entries vanished after they were listed: upload \d+, .*clear the dump task"):
            compress(work)
        dump(work)
    compress(work)
    verify(work)
    assert len(work.verified_record().changed) == (0 if refused else gone)


@pytest.mark.parametrize(("do", "what"), [(os.unlink, "vanished"), (lambda name: os.truncate(name, 1), "changed while read")])
def test_verify_reports_a_changed_file_with_a_non_unicode_name(system, do, what):
    name = os.fsencode(system.storage) + b"/caf\xe9"
    with open(name, "wb") as out:  # noqa: PTH123
        out.write(b"coffee")
    work = work_on(system)
    dump(work)
    do(name)
    compress(work)
    verify(work)
    assert work.verified_record().changed == (f"caf\\xe9: {what}",)


# Snapshots before scans ---------------------------------------------------------------------------------------------


def test_scan_begins_after_all_snapshots_are_open(whole):
    staged = whole.begin_backup()
    scan = work_on(whole, "files.uploads", staged)
    scanning = Thread(target=dump, args=[scan])
    scanning.start()
    dump(work_on(whole, "mongo.documents", staged))
    assert not (scan.dump_folder / "dump.json").exists()
    dump(work_on(whole, "postgres.main", staged))
    scanning.join(60)
    opened = {name: work_on(whole, name, staged).dump_record().point.opened for name in staged.run().sources if name[:4] != "conf"}
    assert opened["files.uploads"] > max(opened["postgres.main"], opened["mongo.documents"])


def test_scan_does_not_wait_for_failed_or_deselected_dumps(whole):
    staged = whole.begin_backup(sources=("postgres.main", "files.uploads"))

    def connect(name):
        raise ConnectionUnusable(f"no {name}", "none")

    with pytest.raises(ConnectionUnusable):
        dump(work_on(whole, "postgres.main", staged, connect))
    dump(work_on(whole, "files.uploads", staged))


def test_scan_begins_without_a_snapshot_after_the_wait_limit(whole, monkeypatch, caplog):
    monkeypatch.setattr(steps, "WAIT_FOR_SNAPSHOTS", 0.2)
    dump(work_on(whole, "files.uploads", whole.begin_backup()))
    assert "mongo.documents did not open a snapshot" in caplog.text


def test_manifest_warns_of_a_scan_that_preceded_a_snapshot(whole):
    staged = whole.begin_backup()
    order = ["mongo.documents", "files.uploads", "postgres.main", "config.settings"]
    for mark in ("postgres.main", "config.settings"):
        staged.source(mark).mkdir(parents=True)
        (staged.source(mark) / "failed").touch()
    for name in order:
        for step in STEPS:
            step(work_on(whole, name, staged))
    finalize.close(whole.context(), staged)
    warnings = {name: entry["warnings"] for name, entry in json.loads(staged.manifest.read_text())["sources"].items()}
    assert warnings["files.uploads"] == ["scanned before the snapshot of postgres.main: files that were added in between are missing"]
    assert warnings["config.settings"] == []


def test_scan_of_a_cold_backup_waits_for_no_snapshot_and_is_never_late(whole, monkeypatch, caplog):
    """Nothing changes while services are stopped, and they should not be for long."""
    monkeypatch.setattr(steps, "WAIT_FOR_SNAPSHOTS", 0.2)
    whole.write_plan(cold="\n  down_at_most: 30m")
    staged = whole.begin_backup(mode="cold")
    cold.stop_services(whole.context(), staged)
    for name in ("files.uploads", "config.settings", "mongo.documents", "postgres.main"):
        for step in STEPS:
            step(work_on(whole, name, staged))
    cold.start_services(whole.context(), staged)
    finalize.close(whole.context(), staged)
    assert "did not open a snapshot" not in caplog.text
    assert {entry["warnings"] != [] for entry in json.loads(staged.manifest.read_text())["sources"].values()} == {False}


# Kills --------------------------------------------------------------------------------------------------------------

_STEP = """
    import json, os, signal, sys
    from pathlib import Path
    from recovery.backup import steps
    from recovery.common.connections import Clients, Endpoint
    from recovery.plan.loader import load_plan
    from recovery.runs.context import PlanContext
    from recovery.runs.staged_set import StagedSet
    plans, name, set_id, source, step, connections, then = sys.argv[1:]
    known = json.loads(connections)
    def connect(name):
        return Endpoint(id=name, **{key: value for key, value in known[name].items() if key in Endpoint.__dataclass_fields__})
    plan = load_plan(name, Path(plans))
    work = steps.Work(PlanContext(plan, Clients(connect, connect)), StagedSet(plan, set_id), source)
    if then == "record":
        def killed(path, record):
            os.kill(os.getpid(), signal.SIGKILL)
        steps.write_record = killed
    getattr(steps, step)(work)
"""


def killed_step(system, work, step, then):
    done = run_python(_STEP, system.plans, system.name, work.staged.id, work.source_id, step, json.dumps(system.connections()), then)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize("source_id", ["postgres.main", "files.uploads"])
def test_backup_step_killed_before_its_record_runs_again(whole, source_id):
    work = work_on(whole, source_id)
    for step in STEPS:
        killed_step(whole, work, step.__name__, "record")
        record = {"dump": work.dump_folder / "dump.json", "compress": work.folder / "sealed.json", "verify": work.folder / "verified.json"}
        assert not record[step.__name__].exists()
        step(work)
    assert work.verified_record().level == "decoded"


@pytest.fixture
def held_pg_dump(whole, tmp_path):
    """A pg_dump that waits before its work while the file ``hold`` is there, and notes its process in ``pid``."""
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    for program in postgres_bin(18).iterdir():
        (folder / program.name).symlink_to(program)
    (folder / "pg_dump").unlink()
    lines = ["#!/bin/sh", f"cd {folder}", "case $* in *--version*) ;; *) echo $$ > pid; while [ -e hold ]; do sleep 0.05; done ;; esac"]
    (folder / "pg_dump").write_text("\n".join([*lines, f'exec {postgres_bin(18)}/pg_dump "$@"', ""]))
    (folder / "pg_dump").chmod(0o755)
    (folder / "hold").touch()
    path = whole.plans / "whole.yaml"
    path.write_text(path.read_text().replace(str(postgres_bin(18)), str(folder)))
    return folder


def end_in_the_middle(held, work, end):
    """Dump, and while pg_dump waits do something to it."""

    def interfere():
        wait_for("pg_dump", lambda: (held / "pid").exists() and bool((held / "pid").read_text()))
        end(int((held / "pid").read_text()))
        (held / "hold").unlink()

    thread = Thread(target=interfere)
    thread.start()
    with pytest.raises(RecoveryError) as error:
        dump(work)
    thread.join()
    assert error.value.retryable
    assert [path.name for path in work.folder.iterdir()] == (["failed"] if work.last_try else [])
    for step in STEPS:
        step(work)
    assert work.verified
    return str(error.value)


def test_dump_fails_when_pg_dump_is_killed_and_a_retry_succeeds(whole, held_pg_dump):
    words = end_in_the_middle(held_pg_dump, work_on(whole, "postgres.main"), lambda pid: os.kill(pid, signal.SIGKILL))
    assert "pg_dump was killed by signal 9" in words


def test_dump_fails_when_the_server_ends_all_connections_and_a_retry_succeeds(whole, held_pg_dump):
    def end_connections(pid):
        with closed_after(whole.postgres.connect()) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'whole'")

    tried_again = replace(work_on(whole, "postgres.main"), last_try=False)  # so a scan goes on waiting for it
    assert "pg_dump failed" in end_in_the_middle(held_pg_dump, tried_again, end_connections)


# A full disk --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(system, tmp_path):
    """Staging on a disk of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("only root mounts a small disk")
    path = system.plans / "small.yaml"
    path.write_text(path.read_text().replace(f"{system.folder}/staging", str(disk)))
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)  # a test that failed may have files open


def test_compress_writes_no_pack_when_free_space_is_too_small(system, small_disk):
    (system.storage / "large").write_bytes(os.urandom(9 << 20))
    work = work_on(system)
    dump(work)
    with pytest.raises(StagingError, match=f"{small_disk}.* has .* free, but packing files.uploads needs about"):
        compress(work)
    assert not list(work.staged.set_folder.rglob("*.age*"))


@pytest.mark.parametrize("step", [dump, compress, verify], ids=lambda step: step.__name__)
def test_backup_step_on_a_full_disk_fails_and_a_retry_with_free_space_succeeds(system, small_disk, monkeypatch, step):
    monkeypatch.setattr(steps, "check_space", lambda *args: None)
    (system.storage / "large").write_bytes(os.urandom(300_000))
    if step is verify:
        for number in range(800):
            (system.storage / f"{number:03} {'long name ' * 15}").touch()
    work = work_on(system)
    for before in STEPS[: STEPS.index(step)]:
        before(work)
    room = {dump: 0, compress: 100_000, verify: 8192}[step]
    (small_disk / "filler").write_bytes(bytes(shutil.disk_usage(small_disk).free - room))
    with pytest.raises(RecoveryError) as error:
        step(work)
    assert str(small_disk) in str(error.value)
    assert "No space left" in str(error.value)
    (small_disk / "filler").unlink()
    assert not work.verified
    assert not list(work.staged.set_folder.rglob("*.age.partial"))
    for again in STEPS[STEPS.index(step) :]:
        again(work)
    assert work.verified
