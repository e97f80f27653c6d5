"""The steps of a backup that work on the set as a whole, called as Airflow's tasks call them."""

import contextlib
import json
import shutil
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context

import pytest

from recovery.backup import finalize, steps
from recovery.backup import upload as backup_upload
from recovery.common.errors import (
    DestinationError,
    KeyMaterialError,
    ManifestError,
    PlanError,
    RecoveryError,
    RetentionError,
    StagingError,
)
from recovery.crypto.key_kit import create_keys
from recovery.crypto.recipients import recipient_fingerprint
from recovery.crypto.signing import SigningKey
from recovery.destinations import make_destination
from recovery.destinations.folder import Folder
from recovery.runs.staged_set import StagedSet
from recovery.sets.catalog import read_catalog
from recovery.sets.layout import CONTENTS_FILE, INSTRUCTIONS_FILE, PACKS_FILE, new_set_id
from recovery.sets.manifest import decode_manifest, parse_packs
from tests.support.sets import run_python
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

SOURCES = ("config.settings", "files.uploads")


@pytest.fixture
def system(tmp_path):
    return SampleSystem(tmp_path / "small", "small")


def verified(system, staged, *sources):
    for source_id in sources or SOURCES:
        for step in (steps.dump, steps.compress, steps.verify):
            step(steps.Work(system.context(), staged, source_id))
    return staged


def manifest_of(staged):
    return decode_manifest(staged.manifest.read_bytes(), "here")


def catalog(system):
    plan = system.plan()
    key = SigningKey.from_endpoint(system.connect(plan.signing)).verify_key
    places = [make_destination(name, place, None) for name, place in plan.destinations.items()]
    return {each.manifest.set_id: each.manifest for each in read_catalog(plan.plan, places, key).sets}


def sets_at(system, name):
    folder = system.folder / name / "small"
    return sorted(path.parent.name for path in folder.glob("*/manifest.json"))


# Beginning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", [(), ("files.nothing",), ("files.uploads", "postgres.main")])
def test_prepare_refuses_an_unknown_source_or_no_source(system, sources):
    with pytest.raises(PlanError, match=r"It has config\.settings, files\.uploads"):
        system.begin_backup(sources=sources)
    assert not (system.folder / "staging").exists()


def test_prepare_keeps_the_first_run_record_when_called_again(system):
    staged = system.begin_backup(note="first")
    there = staged.run_file.read_bytes()
    finalize.prepare(system.context(), staged, staged.run().model_copy(update={"note": "second"}))
    assert staged.run_file.read_bytes() == there


def test_prepare_fails_when_the_staging_folder_cannot_be_created(system):
    (system.folder / "staging").write_text("a file")
    with pytest.raises(StagingError, match="Staging can't be used"):
        system.begin_backup()


def test_prepare_on_a_full_disk_fails_in_words_and_succeeds_with_free_space(system, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=20", "tmpfs", disk], check=False, capture_output=True).returncode:
        pytest.skip("only root mounts a small disk")
    try:
        system.edit_plan(f"{system.folder}/staging", str(disk))
        for fill in (lambda: (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free)), lambda: use_inodes(disk)):
            fill()
            with pytest.raises(StagingError, match="No space left on device") as full:
                system.begin_backup(f"run {fill}")
            assert str(disk) in full.value.what
            for left in disk.glob("filler*"):
                left.unlink()
        assert system.begin_backup().begun
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def use_inodes(disk):
    with contextlib.suppress(OSError):
        for number in range(100):
            (disk / f"filler{number}").touch()


def test_backup_with_half_a_character_in_note_and_run_id_makes_a_set(system):
    """JSON may have such texts, and Airflow hands them on."""
    staged = verified(system, system.begin_backup("manual \ud800", note="before \udfff it"))
    assert (staged.run().note, staged.run().run_id) == (r"before \udfff it", r"manual \ud800")
    backup_upload.upload(system.context(), staged, "near")
    assert catalog(system)[staged.id].note == r"before \udfff it"


def test_staged_set_folder_is_private_to_its_owner(system):
    assert system.begin_backup().folder.stat().st_mode & 0o077 == 0


def test_prepare_takes_previous_counts_from_the_newest_complete_set(system):
    system.back_up("old", when=datetime.now(UTC) - timedelta(hours=3))
    (system.storage / "one more").touch()
    system.back_up("new", when=datetime.now(UTC) - timedelta(hours=2))
    system.back_up("part", when=datetime.now(UTC) - timedelta(hours=1), sources=("config.settings",))
    found = system.begin_backup().run().previous
    assert set(found) == set(SOURCES)
    assert found["files.uploads"]["uploads"] == 6 + 1 + 1 + 1  # uploads, top.txt, the link, one more


def test_prepare_has_no_previous_counts_when_destinations_cannot_be_read(system, caplog):
    system.back_up()
    shutil.rmtree(system.folder / "near")
    shutil.rmtree(system.folder / "far")
    assert system.begin_backup("second").run().previous == {}
    assert "can't be told" in caplog.text


def with_bucket(system):
    path = system.plans / "small.yaml"
    bucket = "  offsite: {s3: {connection: nobody, bucket: sets}, keep_last: 3}"
    path.write_text(path.read_text().replace("approvals:", f"{bucket}\napprovals:"))
    return system


def test_destination_without_its_connection_fails_only_its_own_upload(system, caplog):
    system.back_up()
    staged = verified(with_bucket(system), system.begin_backup("second"))
    assert set(staged.run().previous) == set(SOURCES)
    assert "offsite: no nobody" in caplog.text
    backup_upload.upload(system.context(), staged, "near")
    with pytest.raises(DestinationError, match="no nobody") as caught:
        backup_upload.upload(system.context(), staged, "offsite")
    assert not caught.value.retryable


class NextYear(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=365)


def test_prepare_takes_no_previous_counts_from_a_set_dated_in_the_future(system, monkeypatch):
    system.back_up("past")
    (system.storage / "one more").touch()
    with monkeypatch.context() as patched:
        patched.setattr(finalize, "datetime", NextYear)
        system.back_up("future")
    assert system.begin_backup().run().previous["files.uploads"]["uploads"] == 6 + 1 + 1


def test_backup_sweeps_the_staged_set_of_a_killed_run(system):
    killed = system.begin_backup("killed")
    work = steps.Work(system.context(), killed, "files.uploads")
    steps.dump(work)
    (killed.set_folder / "half.age.partial").touch()
    system.back_up("next")
    assert not killed.folder.exists()
    assert len(sets_at(system, "near")) == 1


# Closing ------------------------------------------------------------------------------------------------------------


def test_close_writes_a_manifest_that_matches_the_packs_and_the_request(system):
    staged = verified(system, system.begin_backup(note="before the move", hold=True))
    finalize.close(system.context(), staged)
    manifest = manifest_of(staged)
    assert (manifest.complete, manifest.missing, manifest.note, manifest.hold) == (True, {}, "before the move", True)
    packs = parse_packs((staged.set_folder / PACKS_FILE).read_bytes(), manifest)
    assert {pack.file for pack in packs} == {str(path.relative_to(staged.set_folder)) for path in staged.set_folder.rglob("*.tar.zst.age")}
    assert sum(pack.stored_bytes for pack in packs) == sum(entry.totals.stored_bytes for entry in manifest.sources.values())
    assert "age --decrypt" in (staged.set_folder / INSTRUCTIONS_FILE).read_text()


def contents_of(system, staged):
    (system.folder / "identity").write_text(system.connect("small_backup_identity").password)
    command = f"age -d -i {system.folder}/identity {staged.set_folder}/{CONTENTS_FILE} | zstd -dc"
    return [json.loads(line) for line in subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout.splitlines()]


def test_contents_open_with_stock_tools_and_name_the_pack_of_every_member(system):
    staged = verified(system, system.begin_backup())
    finalize.close(system.context(), staged)
    rows = contents_of(system, staged)
    members = {name: facts["pack"] for source, _, kind, name, facts in rows if (source, kind) == ("files.uploads", "member")}
    entries = {name for source, _, kind, name, _ in rows if (source, kind) == ("files.uploads", "entry")}
    assert {"top.txt", "latest", "year2/upload 5.bin"} <= set(members) & entries
    assert len(set(members.values())) >= 3
    for name, number in members.items():
        pack = staged.set_folder / "files" / "uploads" / f"uploads.{number:03}.tar.zst.age"
        command = f"age -d -i {system.folder}/identity {pack} | zstd -dc | tar -t"
        listed = subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True).stdout.splitlines()
        assert name in {line.rstrip("/") for line in listed} | {line.removeprefix("./") for line in listed}
    assert not [path.name for path in staged.set_folder.iterdir() if path.suffix == ".zst"]


@pytest.mark.parametrize("when", ["before the packs", "after the packs"])
def test_set_is_encrypted_to_the_recipients_of_the_run_start_after_a_plan_change(system, tmp_path, when):
    def change_recipient():
        path = system.plans / "small.yaml"
        path.write_text(path.read_text().replace(system.keys.recipient, create_keys(tmp_path / "other", "other").recipient))

    staged = system.begin_backup()
    if when == "before the packs":
        change_recipient()
    verified(system, staged)
    if when == "after the packs":
        change_recipient()
    assert system.plan().encryption.recipients != (system.keys.recipient,)
    finalize.close(system.context(), staged)
    assert contents_of(system, staged)
    assert manifest_of(staged).recipients == (recipient_fingerprint(system.keys.recipient),)
    assert manifest_of(staged).level == "decoded"


def test_upload_closes_no_set_without_a_verified_source(system):
    staged = system.begin_backup()
    with pytest.raises(StagingError, match=r"Nothing of set .* was verified"):
        backup_upload.upload(system.context(), staged, "near")
    assert not staged.closed
    assert sets_at(system, "near") == []


def test_upload_fails_when_prepare_did_not_run(system):
    staged = StagedSet(system.plan(), new_set_id(datetime.now(UTC), "never begun"))
    with pytest.raises(StagingError, match="did not begin"):
        backup_upload.upload(system.context(), staged, "near")
    system.begin_backup()
    assert not staged.folder.exists()


def test_set_without_a_failed_source_is_uploaded_as_incomplete(system):
    system.back_up("good")
    (complete,) = sets_at(system, "near")
    staged = verified(system, system.begin_backup(), "files.uploads")
    for name in ("near", "far"):
        backup_upload.upload(system.context(), staged, name)
    manifest = catalog(system)[staged.id]
    assert not manifest.complete
    assert list(manifest.missing) == ["config.settings"]
    assert "failed" in manifest.missing["config.settings"]
    assert catalog(system)[complete].valid("decoded")
    assert not manifest.valid("decoded")


def test_manifest_names_a_deselected_source_as_left_out(system):
    staged = verified(system, system.begin_backup(sources=("files.uploads",)), "files.uploads")
    finalize.close(system.context(), staged)
    assert manifest_of(staged).missing == {"config.settings": "left out by who started the run"}


def _upload(system, staged, name):
    backup_upload.upload(system.context(), staged, name)


def test_concurrent_uploads_close_the_set_once(system):
    staged = verified(system, system.begin_backup())
    context = get_context("fork")
    uploads = [context.Process(target=_upload, args=(system, staged, name)) for name in ("near", "far")]
    for upload in uploads:
        upload.start()
    for upload in uploads:
        upload.join()
    assert [upload.exitcode for upload in uploads] == [0, 0]
    near, far = ((system.folder / name / "small" / staged.id / "manifest.json").read_bytes() for name in ("near", "far"))
    assert near == far == staged.manifest.read_bytes()


def test_upload_with_an_invalid_signing_key_leaves_the_set_open_and_a_retry_succeeds(system):
    staged = verified(system, system.begin_backup())

    def without_key(name):
        endpoint = system.connect(name)
        return endpoint if "signing" not in name else type(endpoint)(id=name, password="no key")

    with pytest.raises(KeyMaterialError):
        backup_upload.upload(system.context(connect=without_key), staged, "near")
    assert not staged.closed
    backup_upload.upload(system.context(), staged, "near")


# Uploading, finishing -----------------------------------------------------------------------------------------------


def test_upload_retry_after_a_destination_outage_needs_no_second_dump(system):
    staged = verified(system, system.begin_backup())
    (system.folder / "far").rename(system.folder / "away")
    (system.folder / "far").write_text("in the way")
    backup_upload.upload(system.context(), staged, "near")
    with pytest.raises(RecoveryError):
        backup_upload.upload(system.context(), staged, "far")
    assert (staged.is_uploaded("near"), staged.is_uploaded("far")) == (True, False)
    (system.folder / "far").unlink()
    (system.folder / "away").rename(system.folder / "far")
    next_run = verified(system, system.begin_backup("next morning", when=datetime.now(UTC) + timedelta(seconds=1)))
    shutil.rmtree(system.storage)
    backup_upload.upload(system.context(), staged, "far")
    assert sets_at(system, "far") == [staged.id]
    backup_upload.upload(system.context(), next_run, "far")
    assert sorted(catalog(system)) == sorted([staged.id, next_run.id])


_KILLED = """
    import json, os, signal, sys
    from pathlib import Path
    from recovery.backup import finalize, upload
    from recovery.common.connections import Clients, Endpoint
    from recovery.destinations.folder import Folder
    from recovery.plan.loader import load_plan
    from recovery.runs.context import PlanContext
    from recovery.runs.staged_set import StagedSet
    plans, set_id, connections, at = sys.argv[1:]
    known = json.loads(connections)
    plan = load_plan("small", Path(plans))
    left = int(at)
    def counted(real):
        def step(*args, **kwargs):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return step
    Folder.put = counted(Folder.put)
    for name in ("write_packs", "describe_file", "write_manifest"):
        setattr(finalize, name, counted(getattr(finalize, name)))
    connect = lambda name: Endpoint(id=name, password=known[name].get("password", ""))
    upload.upload(PlanContext(plan, Clients(connect, connect)), StagedSet(plan, set_id), "near")
"""


def test_upload_killed_at_any_point_leaves_no_partial_set_and_a_retry_succeeds(system):
    staged = verified(system, system.begin_backup())
    at, kills = 0, 0
    while True:
        done = run_python(_KILLED, system.plans, staged.id, json.dumps(system.connections()), at)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        there = sets_at(system, "near")
        assert there == [] or (there == [staged.id] and at > 8)
        if not there:
            assert catalog(system) == {}
        kills += 1
        at += 1 if at < 7 else 4
    assert kills > 7
    assert list(catalog(system)) == [staged.id]
    backup_upload.upload(system.context(), staged, "far")
    backup_upload.finish(system.context(), staged, staged.run().sources)


def test_finish_removes_staging_and_returns_whether_the_set_is_complete(system):
    whole = verified(system, system.begin_backup())
    for name in ("near", "far"):
        backup_upload.upload(system.context(), whole, name)
    assert backup_upload.finish(system.context(), whole, whole.run().sources) is True
    assert not whole.folder.exists()
    part = verified(system, system.begin_backup("part", sources=("files.uploads",)), "files.uploads")
    for name in ("near", "far"):
        backup_upload.upload(system.context(), part, name)
    assert backup_upload.finish(system.context(), part, part.run().sources) is False


@pytest.mark.parametrize("sources", [SOURCES, ("files.uploads",)])
def test_tasks_of_an_ended_run_that_are_cleared_succeed_again_and_change_nothing(system, sources):
    staged = system.begin_backup(sources=sources)
    for source_id in sources:
        verified(system, staged, source_id)
    for name in ("near", "far"):
        backup_upload.upload(system.context(), staged, name)
    whole = len(sources) == 2
    assert backup_upload.finish(system.context(), staged, sources) is whole
    before = sorted(system.folder.glob("[nf]*ar/**/*"))
    for _ in range(2):
        for name in ("near", "far"):
            backup_upload.upload(system.context(), staged, name)
            assert backup_upload.prune(system.context(), staged, name) is whole
        assert backup_upload.finish(system.context(), staged, sources) is whole
    assert sorted(system.folder.glob("[nf]*ar/**/*")) == before
    assert not staged.folder.exists()


@pytest.mark.parametrize("lost", ["manifest.json", "packs.jsonl", "files/uploads/uploads.000.tar.zst.age"])
def test_upload_that_is_cleared_after_the_end_fails_when_the_destination_has_lost_something(system, lost):
    staged = uploaded(system)
    backup_upload.finish(system.context(), staged, SOURCES)
    (system.folder / "far" / "small" / staged.id / lost).unlink()
    backup_upload.upload(system.context(), staged, "near")
    with pytest.raises(RecoveryError, match=r"has ended|no .*packs"):
        backup_upload.upload(system.context(), staged, "far")
    if lost == "manifest.json":
        with pytest.raises(DestinationError, match=r"far has no .* Next: Trigger a new backup run"):
            backup_upload.finish(system.context(), staged, SOURCES)


def uploaded(system, run_id="run", **asked):
    staged = verified(system, system.begin_backup(run_id, **asked))
    for name in system.plan().destinations:
        backup_upload.upload(system.context(), staged, name)
    return staged


def another_folder(system, staged):
    (system.folder / "moved").mkdir()
    path = system.plans / "small.yaml"
    path.write_text(path.read_text().replace(f"{system.folder}/far", f"{system.folder}/moved"))


def emptied(system, staged):
    shutil.rmtree(system.folder / "far" / "small")


def gone(system, staged):
    shutil.rmtree(system.folder / "far")


def tampered(system, staged):
    (system.folder / "far" / "small" / staged.id / "manifest.json.sig").write_bytes(bytes(64))


@pytest.mark.parametrize(
    ("change", "words"),
    [(another_folder, "far has no"), (emptied, "far has no"), (gone, "is not there"), (tampered, "was not signed by the key")],
)
def test_finish_fails_and_keeps_the_staged_set_when_a_destination_lacks_the_set(system, change, words):
    staged = uploaded(system)
    change(system, staged)
    with pytest.raises(DestinationError, match=words) as caught:
        backup_upload.finish(system.context(), staged, staged.run().sources)
    assert "near" not in caught.value.what
    system.begin_backup("next morning", when=datetime.now(UTC) + timedelta(seconds=1))
    assert staged.closed
    if change in {another_folder, emptied}:
        backup_upload.upload(system.context(), staged, "far")
        assert backup_upload.finish(system.context(), staged, staged.run().sources) is True


def test_upload_and_finish_refuse_a_set_signed_by_another_key(system):
    staged = verified(system, system.begin_backup())
    backup_upload.upload(system.context(), staged, "near")
    other = create_keys(system.folder / "other keys", "small")

    def with_another_key(name):
        endpoint = system.connect(name)
        password = json.loads((other.folder / "connections.json").read_text())[name]["password"]
        return type(endpoint)(id=name, password=password) if "signing" in name else endpoint

    with pytest.raises(ManifestError, match="put the one of then back and clear the upload, or trigger a new"):
        backup_upload.upload(system.context(connect=with_another_key), staged, "far")
    assert sets_at(system, "far") == []
    backup_upload.upload(system.context(), staged, "far")
    with pytest.raises(DestinationError, match=r"near has no .* was not signed by .* far has no .* was not signed by"):
        backup_upload.finish(system.context(connect=with_another_key), staged, staged.run().sources)
    assert backup_upload.finish(system.context(), staged, staged.run().sources) is True


def test_upload_and_prune_succeed_after_an_old_set_was_deleted_by_hand(system, monkeypatch):
    """As the runbook says: a whole set goes, its manifest first."""
    now = datetime.now(UTC)
    oldest, middle = (system.back_up(f"run {age}", when=now - timedelta(hours=age)) for age in (9, 8))
    free = {"far": 0}
    monkeypatch.setattr(Folder, "free_space", lambda self: free.get(self.name))
    staged = verified(system, system.begin_backup())
    backup_upload.upload(system.context(), staged, "near")
    with pytest.raises(DestinationError, match='"A full destination" in docs/how-to/restore-runbook'):
        backup_upload.upload(system.context(), staged, "far")
    folder = system.folder / "far" / "small" / oldest
    (folder / "manifest.json").unlink()
    assert sets_at(system, "far") == [middle]
    shutil.rmtree(folder)
    free["far"] = 10**9
    backup_upload.upload(system.context(), staged, "far")
    assert backup_upload.prune(system.context(), staged, "far")
    assert sets_at(system, "far") == sorted([middle, staged.id])


def test_finish_refuses_a_set_that_was_closed_without_a_source(system):
    """The source's tasks are cleared and marked by hand afterwards; the set at the destinations stays what it is."""
    staged = verified(system, system.begin_backup(), "files.uploads")
    for name in ("near", "far"):
        backup_upload.upload(system.context(), staged, name)
    staged.source("config.settings").mkdir(parents=True, exist_ok=True)
    (staged.source("config.settings") / "verified.json").write_text("{}")
    with pytest.raises(StagingError, match=r"closed without config\.settings"):
        backup_upload.finish(system.context(), staged, staged.run().sources)
    assert staged.folder.exists()


def test_prune_keeps_the_sets_of_keep_last_and_keep_within(system):
    now = datetime.now(UTC)
    made = [system.back_up(f"run {number}", when=now - timedelta(hours=9 - number)) for number in range(4)]
    backup_upload.prune(system.context(), StagedSet(system.plan(), made[-1]), "far")
    assert sets_at(system, "far") == made[1:]
    backup_upload.prune(system.context(), StagedSet(system.plan(), made[-1]), "near")
    assert sets_at(system, "near") == made


def test_prune_refuses_when_the_destination_lacks_the_set_of_the_run(system):
    system.back_up()
    with pytest.raises((RecoveryError, DestinationError)):
        backup_upload.prune(system.context(), StagedSet(system.plan(), "20261123T010000Z-0000"), "far")


def test_prune_refuses_when_the_clock_of_any_destination_differs(system, monkeypatch, caplog):
    now = datetime.now(UTC)
    made = [system.back_up(f"run {number}", when=now - timedelta(hours=9 - number)) for number in range(4)]
    staged = StagedSet(system.plan(), made[-1])
    real = Folder.now
    with monkeypatch.context() as patched:
        patched.setattr(Folder, "now", lambda self: real(self) - timedelta(days=60) * (self.name == "near"))
        with pytest.raises(RetentionError, match=rf"clock says .*, that of {system.folder}/near "):
            backup_upload.prune(system.context(), staged, "far")
    assert sets_at(system, "far") == made
    shutil.rmtree(system.folder / "near")
    backup_upload.prune(system.context(), staged, "far")
    assert sets_at(system, "far") == made[1:]
    assert "the clock of near can't be compared" in caplog.text
