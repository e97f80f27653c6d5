"""``recovery sets|show|verify``: sets read where they lie, with the recovery kit and nothing else."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyrage
import pytest
import zstandard

from recovery.cli.main import main
from recovery.common.units import iso
from recovery.crypto.key_kit import create_keys
from recovery.crypto.signing import SigningKey
from recovery.destinations.folder import Folder
from recovery.sets.layout import CONTENTS_FILE, MANIFEST_FILE, SIGNATURE_FILE, new_set_id
from recovery.sets.manifest import decode_manifest, describe_file, encode, write_manifest
from recovery.sets.records import Record, add_record, hold
from recovery.sets.transfer import upload_set
from recovery.sets.verify import VerificationResult
from tests.support.sets import flip, s3_destination
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow

FULL, NO_MONGO = "full", "no mongo"
ALL = ["config.settings", "files.uploads", "mongo.documents", "postgres.main"]


@pytest.fixture(scope="module")
def kept(postgres_server, mongo_server, tmp_path_factory):
    """A system of all four kinds and two sets of it: one whole, held and verified, and a newer one that lacks a source."""
    made = SampleSystem(tmp_path_factory.mktemp("kept") / "small", "bare", postgres=postgres_server, mongo=mongo_server)
    made.sets = {
        FULL: made.back_up("first"),
        NO_MONGO: made.back_up("second", sources=("postgres.main", "files.uploads", "config.settings")),
    }
    made.drop()
    run = made.restore()
    near, key = run.context.destination("near"), run.context.signing_key()
    manifest = decode_manifest((made.set_folders(made.sets[FULL])[0] / MANIFEST_FILE).read_bytes(), "near")
    made.verified_at = datetime.now(UTC)
    add_record(near, hold(manifest, made.verified_at, "alice", "kept for the auditors"), key)
    for time, facts in (
        (made.verified_at, {"sources": list(manifest.sources)}),
        (made.verified_at + timedelta(hours=1), {"sources": ["config.settings"]}),
    ):
        record = Record(kind="proof", plan="bare", set_id=manifest.set_id, time=time, by="run drill", text="verified", facts=facts)
        add_record(near, record, key)
    return made


@pytest.fixture
def place(kept, tmp_path):
    """A copy of a destination, to be damaged."""
    return shutil.copytree(kept.folder / "near", tmp_path / "place")


@pytest.fixture
def ask(kept, capsys):
    """Run a command with the kit; exit status, standard output (JSON as an object), standard error."""

    def run(command, place, *more, kit=("--public-key", "public.pem"), as_json=True):
        arguments = [command, place, *more, *(kept.keys.folder / part if part.endswith((".pem", ".txt")) else part for part in kit)]
        status = main([str(part) for part in arguments] + (["--json"] if as_json else []))
        printed = capsys.readouterr()
        return status, json.loads(printed.out) if as_json and printed.out else printed.out, printed.err

    return run


WHOLE_KIT = ("--public-key", "public.pem", "--identity", "identity.txt")


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_sets_lists_newest_first_with_level_completeness_holds_and_verification(kept, ask):
    status, found, _ = ask("sets", kept.folder / "near")
    assert status == 0
    assert [each["set"] for each in found["sets"]] == [kept.sets[NO_MONGO], kept.sets[FULL]]
    newest, full = found["sets"]
    assert (newest["complete"], full["complete"]) == (False, True)
    assert list(newest["missing"]) == ["mongo.documents"]
    assert full["sources"] == ["config.settings", "files.uploads", "mongo.documents", "postgres.main"]
    assert (full["plan"], full["level"], full["last_proof"]) == ("bare", "decoded", iso(kept.verified_at))
    assert full["held"] == ["held by alice: kept for the auditors"]
    assert (newest["held"], newest["last_proof"]) == ([], None)
    assert full["bytes"] > newest["bytes"] > 0
    _, text, _ = ask("sets", kept.folder / "near", as_json=False)
    head, first, second = text.strip().splitlines()
    assert head.split()[:3] == ["set", "plan", "age"]
    assert f"{kept.sets[NO_MONGO]}  bare" in first
    assert "NO, lacks mongo.documents" in first
    assert "never" in first
    assert second.split()[-6] == "yes"
    assert "  content  " in second
    assert "NOT CHECKED" not in text


def test_show_prints_contents_records_and_packs_of_a_set(kept, ask):
    status, found, _ = ask("show", kept.folder / "near", kept.sets[FULL], kit=WHOLE_KIT)
    assert status == 0
    assert found["contents"]["postgres.main"]["bare"]["table"] == 1
    assert found["contents"]["mongo.documents"]["documents"]["collection"] == 2
    assert found["contents"]["files.uploads"]["uploads"]["entry"] == 12
    assert [each["kind"] for each in found["records"]] == ["hold", "proof", "proof"]
    assert {each["source"] for each in found["packs"]} == set(found["contents"])
    _, text, _ = ask("show", kept.folder / "near", kept.sets[FULL], as_json=False)
    for words in (
        "everything before 20",
        "held by alice: kept for the auditors",
        "proof by run drill",
        "500 records",
        "bare: 320 records",
        "nothing after",
    ):
        assert words in text
    _, text, _ = ask("show", kept.folder / "near", "latest", kit=WHOLE_KIT, as_json=False)
    assert f"Set {kept.sets[FULL]} of bare" in text, "latest is the newest complete one"
    assert "1 table" in text


@pytest.mark.parametrize("part", ["", "bare", "bare/<set>"])
def test_verify_accepts_the_folder_of_a_destination_plan_or_set_and_writes_no_file(kept, place, ask, tmp_path, part):
    moved = (place / part.replace("<set>", kept.sets[FULL])).rename(tmp_path / "moved here")
    before, changed = tree(moved), moved.stat().st_mtime_ns
    status, found, told = ask("verify", moved, *([] if part.endswith(">") else ["latest"]), kit=WHOLE_KIT)
    assert status == 0, found
    (verified,) = found["sets"]
    assert (verified["set"], verified["valid"], verified["faults"], verified["unable"]) == (kept.sets[FULL], True, [], [])
    assert verified["files"] == sum(
        name.endswith((".age", "packs.jsonl", "RESTORE.md")) and kept.sets[NO_MONGO] not in name for name in before
    )
    assert verified["things"] >= 20
    assert "config/settings/settings.000.tar.zst.age is right" in told
    assert (tree(moved), moved.stat().st_mtime_ns) == (before, changed), "nothing is written there"


def test_sets_and_verify_read_a_bucket_without_airflow(kept, s3_server, tmp_path):
    """As on a machine that only has Python: importing Airflow fails, and the keys are in the environment."""
    bucket = s3_destination(s3_server)
    upload_set(kept.set_folders(kept.sets[FULL])[0], bucket)
    without_airflow = "import sys; sys.modules['airflow'] = None; from recovery.cli.main import main; sys.exit(main())"
    environ = {
        "PATH": os.environ["PATH"],
        "AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key, "AWS_DEFAULT_REGION": "us-east-1",
        "HOME": str(tmp_path),
    }  # fmt: skip

    def run(*arguments):
        kit = ["--public-key", kept.keys.folder / "public.pem", "--endpoint-url", s3_server.url]
        argv = [sys.executable, "-I", "-c", without_airflow, *arguments, *kit]
        return subprocess.run([str(part) for part in argv], capture_output=True, text=True, env=environ, check=False)

    listed = run("sets", f"{bucket.describe()}/")
    assert listed.returncode == 0, listed.stderr
    assert kept.sets[FULL] in listed.stdout
    for place in (bucket.describe(), f"{bucket.describe()}/bare/{kept.sets[FULL]}"):
        verified = run("verify", place, "latest", "--identity", kept.keys.folder / "identity.txt")
        assert verified.returncode == 0, verified.stderr
        assert verified.stdout.startswith(f"VALID: set {kept.sets[FULL]} of bare")
    name = f"bare/{kept.sets[FULL]}/files/uploads/uploads.001.tar.zst.age"
    s3_server.client().put_object(Bucket=bucket._bucket, Key=f"{bucket._prefix}{name}", Body=b"something else")
    damaged = run("verify", bucket.describe(), "latest")
    assert damaged.returncode == 1
    assert "invalid: files/uploads/uploads.001.tar.zst.age is not what the manifest says: 14 bytes" in damaged.stdout
    for place, words in (("s3://no-such-bucket-here", "NoSuchBucket"), ("s3://", "names no bucket")):
        refused = run("sets", place)
        assert (refused.returncode, "Traceback" in refused.stderr) == (2, False)
        assert words in refused.stderr
    environ["AWS_SECRET_ACCESS_KEY"] = "not the key"
    refused = run("verify", bucket.describe(), "latest")
    assert refused.returncode == 2
    assert "AWS_ variables" in refused.stderr


def test_a_public_key_that_lies_beside_the_sets_is_refused(kept, place, capsys):
    """Somebody who can write there made it, and signed other sets with it."""
    key = shutil.copyfile(kept.keys.folder / "public.pem", place / "bare" / "public.pem")
    link = place.parent / "link"
    link.symlink_to(key)
    for named in (key, link):
        assert main(["verify", str(place), "--all", "--public-key", str(named)]) == 2
        assert "Name public.pem of the recovery kit" in capsys.readouterr().err


def test_verify_names_a_damaged_pack_and_ends_with_exit_status_1(kept, place, ask):
    flip(place / "bare" / kept.sets[FULL] / "files/uploads/uploads.001.tar.zst.age")
    status, found, _ = ask("verify", place, kept.sets[FULL], kit=WHOLE_KIT)
    (verified,) = found["sets"]
    assert (status, verified["valid"], len(verified["faults"])) == (1, False, 1)
    status, text, _ = ask("verify", place, "--all", as_json=False)
    assert status == 1
    assert f"INVALID: set {kept.sets[FULL]} of bare" in text
    assert "  invalid: files/uploads/uploads.001.tar.zst.age is not what the manifest says" in text
    assert f"WHOLE, BUT NOT COMPLETE: set {kept.sets[NO_MONGO]} of bare" in text, "the others are verified all the same"


def test_verify_prints_the_first_50_faults_of_a_long_list(kept, ask, monkeypatch):
    def invalid(found, keys):
        return VerificationResult(found.manifest.set_id, faults=[f"fault {number}" for number in range(52)])

    monkeypatch.setattr("recovery.cli.verify.verify_set", invalid)
    status, text, _ = ask("verify", kept.folder / "near", "latest", as_json=False)
    assert status == 1
    assert "  invalid: fault 49\n  invalid: and 2 more, which --json names\n" in text


def test_cli_without_public_key_calls_no_set_valid(kept, ask):
    for command, more in (("sets", ()), ("show", ("latest",)), ("verify", ("latest",))):
        status, text, _ = ask(command, kept.folder / "near", *more, kit=(), as_json=False)
        assert "SIGNATURES NOT CHECKED" in text
        assert "VALID" not in text
        assert status == (1 if command == "verify" else 0)
    status, found, _ = ask("verify", kept.folder / "near", "latest", kit=())
    assert (status, found["signatures"], found["sets"][0]["valid"], found["sets"][0]["faults"]) == (1, "NOT CHECKED", False, [])
    assert "CONTENTS NOT READ" in ask("verify", kept.folder / "near", "latest", as_json=False)[1]


def test_sets_rejects_a_set_in_the_folder_of_another_set(kept, place, ask):
    older, newer = (place / "bare" / kept.sets[name] for name in (FULL, NO_MONGO))
    shutil.rmtree(newer)
    shutil.copytree(older, newer)
    status, found, _ = ask("sets", place)
    assert status == 1
    assert [each["set"] for each in found["sets"]] == [kept.sets[FULL]]
    assert "somebody moved or copied it" in found["findings"][0]


def test_unfinished_set_is_listed_apart_and_hides_no_other_set(kept, place, ask):
    (place / "bare" / kept.sets[NO_MONGO] / MANIFEST_FILE).unlink()
    (place / "lost+found").mkdir()
    status, found, _ = ask("sets", place)
    assert (status, len(found["sets"])) == (0, 1)
    assert kept.sets[NO_MONGO] in found["unfinished"][0]
    assert ask("verify", place, kept.sets[NO_MONGO])[0] == 2
    assert ask("verify", place, "latest")[0] == 0


def test_verify_latest_ends_with_exit_status_1_when_a_newer_set_is_damaged(kept, place, ask):
    flip(place / "bare" / kept.sets[NO_MONGO] / MANIFEST_FILE)
    for where, more in ((place, ()), (place / "bare", ("--plan", "bare")), (place, ("--plan", "bare"))):
        status, text, _ = ask("verify", where, "latest", *more, as_json=False)
        assert status == 1
        assert f"VALID: set {kept.sets[FULL]} of bare, " in text
        assert " old: " in text
        assert f"INVALID: set {kept.sets[NO_MONGO]}" in text
    status, found, _ = ask("show", place, "latest")
    assert (status, found["set"]["set_id"], len(found["doubtful"])) == (1, kept.sets[FULL], 1)
    assert ask("verify", place, kept.sets[FULL])[0] == 0, "who names a set asks about that one"


def test_verify_latest_is_invalid_when_all_sets_are_damaged(kept, place, ask):
    for set_id in kept.sets.values():
        flip(place / "bare" / set_id / MANIFEST_FILE)
    status, found, _ = ask("verify", place, "latest")
    assert (status, {each["set"] for each in found["sets"]}) == (1, set(kept.sets.values()))


@pytest.mark.parametrize("left", ["*.age", "manifest.json.sig", "records/*"])
def test_verify_all_does_not_end_with_0_when_a_set_has_lost_its_manifest(kept, place, ask, left):
    """Whatever else was removed with it: this is no set that somebody may take for verified."""
    shutil.rmtree(place / "bare" / kept.sets[NO_MONGO])
    (place / "bare" / new_set_id(datetime.now(UTC), "killed")).mkdir()
    assert ask("verify", place, "--all")[0] == 0, "an empty folder has lost nothing"
    folder = place / "bare" / kept.sets[FULL]
    stays = set(folder.rglob(left))
    assert stays
    for path in sorted(set(folder.rglob("*")) - stays, reverse=True):
        if path.is_file():
            path.unlink()
    status, text, _ = ask("verify", place, "--all", as_json=False)
    assert status == 2
    assert f"NOT FULLY VERIFIED: set {kept.sets[FULL]}" in text
    assert "its manifest was removed" in text


@pytest.mark.parametrize("days", [2, 4])
def test_set_without_manifest_is_unfinished_after_2_days_and_invalid_after_4_days(kept, place, ask, days):
    folder = place / "bare" / kept.sets[NO_MONGO]
    (folder / MANIFEST_FILE).unlink()
    long_ago = (datetime.now(UTC) - timedelta(days=days)).timestamp()
    for path in folder.rglob("*"):
        os.utime(path, (long_ago, long_ago))
    lost = days == 4
    changed = place.stat().st_mtime_ns
    for arguments in (["verify", place, "latest"], ["verify", place, "--all"], ["sets", place]):
        status, found, _ = ask(*arguments)
        everything = "--all" in arguments
        assert (status, len(found["unfinished"])) == ((1, 0) if lost else (2, 0) if everything else (0, 1)), arguments
        if everything:
            assert any("no manifest" in each for verified in found["sets"] for each in (*verified["faults"], *verified["unable"]))
    _, text, _ = ask("sets", place, as_json=False)
    assert ("NOT BELIEVED" in text, "but no manifest: it was removed, or never came" in text) == (lost, lost)
    assert place.stat().st_mtime_ns == changed, "not even a probe of its clock is written there"


def test_set_with_unreadable_manifest_is_neither_valid_nor_invalid(kept, place, ask):
    """A folder where the file should be: reading fails there as it does on a broken disk, for root too."""
    path = place / "bare" / kept.sets[NO_MONGO] / MANIFEST_FILE
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    for arguments in (["verify", place, "latest"], ["verify", place, "--all"], ["verify", place, kept.sets[NO_MONGO]]):
        status, found, _ = ask(*arguments)
        assert (status, [each["faults"] for each in found["sets"] if each["faults"]]) == (2, [])
        assert "Is a directory" in found["sets"][-1]["unable"][0]
    status, text, _ = ask("sets", place, as_json=False)
    assert (status, "NOT BELIEVED" in text, "COULD NOT BE READ: bare/" in text) == (2, False, True)
    assert kept.sets[FULL] in text
    status, _, words = ask("show", place, kept.sets[NO_MONGO])
    assert (status, "Is a directory" in words) == (2, True)


def sign(kept, folder, **changes):
    """Change a manifest as whoever has the key can."""
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here")
    write_manifest(folder, manifest.model_copy(update=changes), SigningKey.from_endpoint(kept.connect("bare_backup_signing")))


def test_latest_skips_a_set_that_is_dated_in_the_future(kept, place, ask):
    sign(kept, place / "bare" / kept.sets[NO_MONGO], complete=True, missing={}, created=datetime.now(UTC) + timedelta(days=365))
    assert ask("show", place, "latest")[1]["set"]["set_id"] == kept.sets[FULL]
    assert ask("show", place, kept.sets[NO_MONGO])[0] == 0


def test_latest_skips_the_safety_set_of_a_restore(kept, place, ask):
    safety = place / "bare" / kept.sets[NO_MONGO]
    sign(kept, safety, safety=True, complete=True, missing={})
    assert ask("show", place, "latest")[1]["set"]["set_id"] == kept.sets[FULL]
    assert ask("verify", place, "latest")[1]["sets"][0]["set"] == kept.sets[FULL]
    assert "yes, safety" in ask("sets", place, as_json=False)[1]


def test_verify_without_identity_does_not_call_a_set_of_checksum_level_valid(kept, place, ask):
    folder = place / "bare" / kept.sets[FULL]
    sources = decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here").sources
    sign(kept, folder, sources={name: entry.model_copy(update={"level": "stored"}) for name, entry in sources.items()})
    status, text, _ = ask("verify", place, folder.name, as_json=False)
    assert (status, text.startswith("WHOLE, CONTENTS NOT READ: set ")) == (2, True)
    assert "  checksum  " in ask("sets", place, as_json=False)[1]
    assert "postgres.main: checksum, snapshot of" in ask("show", place, folder.name, as_json=False)[1]


def test_verify_does_not_call_an_incomplete_set_valid(kept, ask):
    status, found, _ = ask("verify", kept.folder / "near", kept.sets[NO_MONGO], kit=WHOLE_KIT)
    (verified,) = found["sets"]
    assert (status, verified["valid"], verified["faults"], verified["missing"]) == (2, False, [], ["mongo.documents"])
    _, text, _ = ask("verify", kept.folder / "near", kept.sets[NO_MONGO], as_json=False)
    assert text.startswith("WHOLE, BUT NOT COMPLETE: set ")


@pytest.mark.parametrize("facts", [{"sources": ["config.settings"]}, {"sources": ALL, "only": {"files.uploads": ["top.txt"]}}, {}])
def test_sets_shows_a_verification_record_of_parts_as_part_only(kept, place, ask, facts):
    folder = place / "bare" / kept.sets[FULL]
    shutil.rmtree(folder / "records")
    record = Record(kind="proof", plan="bare", set_id=folder.name, time=kept.verified_at, by="run", text="verified", facts=facts)
    add_record(Folder("place", place), record, SigningKey.from_endpoint(kept.connect("bare_backup_signing")))
    full = ask("sets", place)[1]["sets"][1]
    assert (full["last_proof"], full["last_proof_of_any_part"]) == (None, iso(kept.verified_at))
    _, text, _ = ask("sets", place, as_json=False)
    assert text.strip().splitlines()[2].split()[-5] == "part"


def test_cli_separates_sets_of_two_plans_at_one_destination(kept, place, ask, tmp_path, capsys):
    other = SampleSystem(tmp_path / "other", "other")
    set_id = other.back_up()
    shutil.copytree(other.folder / "near" / "other", place / "other")
    status, found, _ = ask("sets", place, kit=())
    assert {each["plan"] for each in found["sets"]} == {"bare", "other"}
    assert [each["set"] for each in ask("sets", place, "--plan", "other", kit=())[1]["sets"]] == [set_id]
    status, _, words = ask("show", place, "latest", kit=())
    assert (status, "--plan" in words) == (2, True)
    assert ask("verify", place, "latest", "--plan", "bare")[0] == 0
    assert ask("verify", place, "--all")[0] == 1, "the other plan's key is another one"


def test_verify_with_wrong_identity_reports_the_set_as_not_fully_verified(kept, ask, tmp_path):
    other = create_keys(tmp_path / "other", "other").folder / "identity.txt"
    status, found, _ = ask("verify", kept.folder / "near", kept.sets[FULL], "--identity", other)
    (verified,) = found["sets"]
    assert (status, verified["valid"], verified["faults"], verified["things"]) == (2, False, [], None)
    assert "was not encrypted to this identity" in verified["unable"][0]
    assert ask("verify", kept.folder / "near", kept.sets[FULL], "--identity", other, as_json=False)[1].startswith(
        "NOT FULLY VERIFIED: set "
    )
    both = tmp_path / "both.txt"
    both.write_text(other.read_text() + (kept.keys.folder / "identity.txt").read_text())
    assert ask("verify", kept.folder / "near", kept.sets[FULL], "--identity", both)[0] == 0
    status, _, words = ask("show", kept.folder / "near", kept.sets[FULL], "--identity", other)
    assert (status, "was not encrypted to this identity" in words) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sets", "{near}/nowhere"], "There is no folder"),
        (["sets", "{near}/bare/manifest.json"], "There is no folder"),
        (["verify", "{near}", "20260101T000000Z-0000"], "There is no set 20260101T000000Z-0000"),
        (["verify", "{near}", "20260101T000000Z-0000", "--all"], "both given"),
        (["verify", "{near}"], "more than one set"),
        (["verify", "{kit}", "--all"], "There is no set"),
        (["verify", "{near}", "latest", "--identity", "{kit}/public.pem"], "has no age identity"),
        (["verify", "{near}", "latest", "--identity", "{kit}/none"], "can't be read"),
        (["sets", "{near}", "--public-key", "{kit}/identity.txt"], "not an Ed25519 public key"),
        (["sets", "s3://bucket", "--endpoint-url", "nonsense"], "can't be reached"),
    ],
)
def test_sets_and_verify_report_user_errors_with_exit_status_2(kept, capsys, arguments, words):
    places = {"near": kept.folder / "near", "kit": kept.keys.folder}
    assert main([part.format(**places) for part in arguments]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert printed.out == ""
    assert (kept.keys.folder / "identity.txt").read_text().split()[-1] not in printed.err


def test_sets_of_a_folder_without_sets_ends_with_exit_status_1(tmp_path, ask):
    status, text, _ = ask("sets", tmp_path, as_json=False)
    assert (status, "There is no set at" in text) == (1, True)


def test_verify_leaves_no_decrypted_files_behind(kept, ask, tmp_path, monkeypatch):
    scratch = tmp_path / secrets.token_hex(4)
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    assert ask("verify", kept.folder / "near", kept.sets[FULL], kit=WHOLE_KIT)[0] == 0
    assert list(scratch.iterdir()) == []


def planted(place):
    """A folder of a set that somebody else made."""
    folder = place / "bare" / "99990101T000000Z-0000"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ((), None),
        (("skew_seconds",), float("inf")),
        (("skew_seconds",), float("nan")),
        (("created",), "0001-01-01T00:00:00+14:00"),
        (("created",), "9999-12-31T23:59:59-14:00"),
        (("sources", "postgres.main", "point", "opened"), "0001-01-01T00:00:00+14:00"),
        (("sources", "postgres.main", "totals", "stored_bytes"), 10**400),
        (("sources", "postgres.main", "totals", "counts", "bare"), 10**400),
        (("files", "packs", "bytes"), 10**15),
        (("files", "packs", "bytes"), 1 << 63),
    ],
    ids=str,
)
def test_forged_manifest_is_reported_and_the_other_sets_are_read(kept, place, ask, where, what):
    folder = planted(place)
    values = json.loads((place / "bare" / kept.sets[FULL] / MANIFEST_FILE).read_text()) | {"set_id": folder.name}
    part = values
    for key in where[:-1]:
        part = part[key]
    part |= dict.fromkeys(where[-1:], what)
    (folder / MANIFEST_FILE).write_text(json.dumps(values) if where else "[" * 60_000)
    (folder / SIGNATURE_FILE).write_bytes(bytes(64))
    for kit, words in ((("--public-key", "public.pem"), "was not signed by the key"), ((), " is not ")):
        status, found, _ = ask("sets", place, kit=kit)
        assert (status, len(found["sets"]), len(found["findings"])) == (1, 2, 1)
        assert words in found["findings"][0]
        status, _, said = ask("show", place, folder.name, kit=kit)
        assert (status, words in said) == (2, True)
        status, found, _ = ask("verify", place, "--all", kit=kit)
        assert (status, sum(bool(each["faults"]) for each in found["sets"])) == (1, 1)


def test_sets_rejects_a_record_with_an_impossible_time(kept, place, ask):
    records = place / "bare" / kept.sets[FULL] / "records"
    record = next(records.glob("*-hold.json"))
    values = json.loads(record.read_text()) | {"time": "0001-01-01T00:00:00+14:00"}
    record.write_text(json.dumps(values))
    verification = next(records.glob("*-proof.json"))
    verification.write_text(json.dumps(json.loads(verification.read_text()) | {"facts": {"sources": 5}}))
    status, found, _ = ask("sets", place, kit=())
    assert (status, len(found["findings"])) == (1, 1)
    assert "is no record of format 1" in found["findings"][0]


def test_manifest_with_an_invalid_signature_is_not_decoded(kept, place, ask, monkeypatch):
    folder = planted(place)
    (folder / MANIFEST_FILE).write_bytes(b"whatever")
    decoded = []

    def decode(data, where):
        decoded.append(data)
        return decode_manifest(data, where)

    monkeypatch.setattr("recovery.sets.manifest.decode_manifest", decode)
    assert ask("sets", place)[0] == 1
    assert len(decoded) == 2
    assert b"whatever" not in decoded


def test_sets_lists_a_misplaced_set_at_the_root_beside_newer_sets(kept, place, ask):
    """An old set beside the folders of plans: what is newer lies deeper."""
    older, newer = kept.sets[FULL], kept.sets[NO_MONGO]
    (place / "bare" / older).rename(place / older)
    status, found, _ = ask("sets", place)
    assert (status, [each["set"] for each in found["sets"]]) == (0, [newer, older])
    assert found["remarks"] == [
        f"{older} does not lie where others do; a restore looks at <plan>/<set id> of a destination, and nowhere else."
    ]
    assert found["remarks"][0] in ask("sets", place, as_json=False)[1]
    status, text, _ = ask("verify", place, older, as_json=False)
    assert (status, f"note: {older} does not lie where others do" in text) == (0, True)


def test_verify_latest_takes_the_newest_set_beside_a_stray_manifest_at_the_root(kept, place, ask):
    newest = place / "bare" / kept.sets[NO_MONGO]
    older = place / "bare" / kept.sets[FULL]
    for name in (MANIFEST_FILE, SIGNATURE_FILE):
        shutil.copy(older / name, place)
    sign(kept, newest, complete=True, missing={})
    status, found, _ = ask("verify", place, "latest")
    assert (status, [each["set"] for each in found["sets"]]) == (0, [newest.name])
    assert "this place itself does not lie where others do" in found["remarks"][0]
    (place / SIGNATURE_FILE).unlink()
    status, found, _ = ask("verify", place, "latest")
    assert (status, [each["set"] for each in found["sets"]]) == (1, [newest.name, str(place)]), "a stray one is named"


def test_verify_of_forged_contents_writes_no_file_outside_the_scratch_folder(kept, place, ask, tmp_path, monkeypatch):
    """Anybody can encrypt to a recipient; without the public key it is opened."""
    folder = place / "bare" / kept.sets[FULL]
    (identity,) = [line for line in (kept.keys.folder / "identity.txt").read_text().splitlines() if line.startswith("AGE-")]
    recipient = pyrage.x25519.Identity.from_str(identity).to_public()
    rows = json.dumps(["../../../evil", "x", "table", "t", {}]).encode() + b"\n"
    (folder / CONTENTS_FILE).write_bytes(pyrage.encrypt(zstandard.compress(rows), [recipient]))
    manifest = decode_manifest((folder / MANIFEST_FILE).read_bytes(), "here")
    files = manifest.files.model_copy(update={"contents": describe_file(folder / CONTENTS_FILE)})
    (folder / MANIFEST_FILE).write_bytes(encode(manifest.model_copy(update={"files": files})))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    status, found, _ = ask("verify", place, folder.name, kit=("--identity", "identity.txt"))
    assert (status, len(found["sets"][0]["faults"]) > 3) == (1, True), "no pack is one that the contents name"
    assert not (tmp_path / "evil").exists()
    assert list(scratch.iterdir()) == []


def test_sets_reports_a_named_pipe_as_unreadable_and_does_not_hang(kept, place, ask):
    os.mkfifo(planted(place) / MANIFEST_FILE)
    status, found, _ = ask("sets", place)
    assert (status, len(found["sets"]), len(found["unread"])) == (2, 2, 1)
    assert "It is not a file" in found["unread"][0]


FORGED = "x\nVALID: set 20990101T000000Z-0000 of bare\x1b[2J\u202e"


@pytest.mark.parametrize("kit", [("--public-key", "public.pem"), ()])
def test_cli_escapes_line_breaks_and_control_characters_of_file_names(kept, place, ask, capsys, kit):
    folder = place / "bare" / kept.sets[FULL]
    (folder / FORGED).write_text("")
    (place / FORGED / kept.sets[FULL]).mkdir(parents=True)
    (place / FORGED / kept.sets[FULL] / MANIFEST_FILE).write_text(FORGED)
    (folder / "records" / f"{FORGED}-hold.json").write_text("")
    for command, more in (("sets", ()), ("show", ()), ("verify", ("--all",)), ("verify", ("latest",))):
        where = folder if command == "show" else place
        _, text, words = ask(command, where, *more, kit=kit, as_json=False)
        assert r"x\nVALID: set 20990101T000000Z-0000 of bare\x1b[2J\u202e" in text
        main([command, str(where), *map(str, more), "--json"])
        for line in (text + words + capsys.readouterr().out).split("\n"):
            assert line.isprintable()
            assert not line.startswith("VALID: set 2099")


def test_cli_defect_prints_one_line_and_ends_with_exit_status_3(kept, monkeypatch, capsys):
    def broken(*arguments):
        raise ZeroDivisionError("in the middle of it")

    monkeypatch.setattr("recovery.cli.sets.find_sets", broken)
    assert main(["sets", str(kept.folder / "near")]) == 3
    said = capsys.readouterr().err
    assert (said.count("\n"), "Traceback" in said) == (1, False)
    assert "a defect of this program (ZeroDivisionError)" in said
    monkeypatch.setenv("RECOVERY_DEBUG", "1")
    assert main(["sets", str(kept.folder / "near")]) == 3
    assert "in the middle of it" in capsys.readouterr().err
