import hashlib
import json
import subprocess
from datetime import timedelta

import pytest
from pydantic import ValidationError

from recovery.common.errors import ArtifactError, ManifestError
from recovery.crypto.signing import SigningKey
from recovery.sets.layout import is_set_id, new_set_id, pack_path
from recovery.sets.manifest import (
    MAX_BYTES,
    MAX_PACKS_BYTES,
    File,
    Files,
    Manifest,
    StoredPack,
    encode,
    parse_manifest,
    parse_packs,
    set_files,
    skew,
    write_manifest,
)
from recovery.sets.records import hold
from tests.support.sets import KEY, NOTHING, NOW, make_set, manifest, source

PACK = {"source": "postgres.main", "artifact": "shop", "number": 0, "file": "a/b", "raw_bytes": 1, "stored_bytes": 1, "sha256": "0" * 64}


@pytest.fixture
def made(tmp_path):
    return make_set(tmp_path)


def signed(data: bytes) -> tuple[bytes, bytes]:
    return data, KEY.sign(data)


def test_parse_manifest_returns_the_written_manifest(made):
    folder, written = made
    data, signature = (folder / "manifest.json").read_bytes(), (folder / "manifest.json.sig").read_bytes()
    assert parse_manifest(data, signature, KEY.verify_key, f"openmanus/{folder.name}") == written
    assert encode(written) == data
    assert not [path for path in folder.iterdir() if path.name.endswith(".partial")]


def test_manifest_signature_is_verified_by_stock_openssl(made, tmp_path):
    folder, _ = made
    public = tmp_path / "public.pem"
    public.write_bytes(KEY.verify_key.pem)

    def verify():
        argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin", "-in", folder / "manifest.json"]
        return subprocess.run([*argv, "-sigfile", folder / "manifest.json.sig"], check=False, capture_output=True).returncode

    assert verify() == 0
    (folder / "manifest.json").write_bytes((folder / "manifest.json").read_bytes().replace(b'"hold": false', b'"hold": true'))
    assert verify() != 0


def test_pack_checksums_are_verified_by_stock_tools(made):
    folder, _ = made
    # the commands of docs/reference/format.md
    command = r"""sed -E 's/.*"file":"([^"]*)".*"sha256":"([0-9a-f]{64})".*/\2  \1/' packs.jsonl | sha256sum --check --strict --quiet"""
    assert subprocess.run(["sh", "-c", command], cwd=folder, check=False, capture_output=True).returncode == 0
    pack = folder / "postgres/main/shop.001.tar.zst.age"
    pack.write_bytes(pack.read_bytes()[:-1] + b"?")
    ended = subprocess.run(["sh", "-c", command], cwd=folder, check=False, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "shop.001.tar.zst.age: FAILED" in ended.stdout


@pytest.mark.parametrize("position", [0, 200, -2])
def test_parse_manifest_refuses_a_manifest_with_a_changed_byte(made, position):
    folder, _ = made
    data = bytearray((folder / "manifest.json").read_bytes())
    data[position] ^= 1
    with pytest.raises(ManifestError, match="was not signed by the key"):
        parse_manifest(bytes(data), (folder / "manifest.json.sig").read_bytes(), KEY.verify_key, f"openmanus/{folder.name}")


def test_parse_manifest_refuses_a_missing_signature_or_another_key(made):
    folder, written = made
    data = (folder / "manifest.json").read_bytes()
    with pytest.raises(ManifestError, match="was not signed"):
        parse_manifest(data, SigningKey.generate().sign(data), KEY.verify_key, written.path)
    with pytest.raises(ManifestError, match="was not signed"):
        parse_manifest(data, b"", KEY.verify_key, written.path)


@pytest.mark.parametrize("path", ["openmanus/20261122T010000Z-0000", "other/{set_id}", "{set_id}", "openmanus/{set_id}/x"])
def test_parse_manifest_refuses_a_manifest_at_another_path(made, path):
    folder, _ = made
    data, signature = (folder / "manifest.json").read_bytes(), (folder / "manifest.json.sig").read_bytes()
    with pytest.raises(ManifestError, match="somebody moved or copied it"):
        parse_manifest(data, signature, KEY.verify_key, path.format(set_id=folder.name))


def test_parse_manifest_refuses_a_signed_record():
    record = hold(manifest(), NOW, "alice", "keep it")
    with pytest.raises(ManifestError, match="says that it is 'hold'"):
        parse_manifest(*signed(encode(record)), KEY.verify_key, "openmanus/x")


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b"\xff\xfe", b'{"kind": "manifest"', b"[" * 60_000, b"9" * 60_000, b"NaN"])
def test_parse_manifest_refuses_signed_data_that_is_not_a_json_manifest(data):
    with pytest.raises(ManifestError, match="as a manifest is no"):
        parse_manifest(*signed(data), KEY.verify_key, "openmanus/x")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "has format 2; this version knows format 1"),
        ({"surprise": 1}, "surprise"),
        ({"plan": "../etc"}, "plan"),
        ({"set_id": "../../x"}, "is not a set id"),
        ({"complete": False}, "contradict"),
        ({"missing": {"mongo.documents": "no answer"}}, "contradict"),
        ({"created": "2026-11-23T12:00:00"}, "created"),
        ({"sources": {}}, "sources"),
        ({"skew_seconds": float("inf")}, "Infinity is no number in JSON"),
        ({"skew_seconds": float("nan")}, "NaN is no number in JSON"),
        ({"skew_seconds": 1e300}, "skew_seconds"),
        ({"created": "0001-01-01T00:00:00+14:00"}, "of the years 1970 to 2200"),
        ({"created": "9999-12-31T23:59:59-14:00"}, "of the years 1970 to 2200"),
    ],
)
def test_parse_manifest_refuses_a_signed_manifest_with_invalid_values(change, words):
    valid = manifest()
    values = json.loads(encode(valid)) | change
    with pytest.raises(ManifestError, match=words):
        parse_manifest(*signed(json.dumps(values).encode()), KEY.verify_key, valid.path)


def test_source_entry_refuses_moments_without_offset():
    naive = source(NOW).model_dump()
    naive["point"]["opened"] = NOW.replace(tzinfo=None)
    with pytest.raises(ValidationError, match="without offset"):
        type(source()).model_validate(naive)


@pytest.mark.parametrize("moment", ["opened", "closed"])
def test_source_entry_refuses_moments_outside_the_years_1970_to_2200(moment):
    values = source().model_dump()
    values["point"][moment] = "0001-01-01T00:00:00+14:00"
    with pytest.raises(ValidationError, match="of the years 1970 to 2200"):
        type(source()).model_validate(values)


@pytest.mark.parametrize("number", [-1, 1 << 53, 10**400])
def test_manifest_refuses_numbers_that_are_negative_or_not_exact_in_json(number):
    for part in (File(bytes=1, sha256="0" * 64), source().totals, StoredPack(**PACK)):
        for name in part.model_dump().keys() & {"bytes", "artifacts", "packs", "raw_bytes", "stored_bytes", "counts", "number"}:
            changed = {"table": number} if name == "counts" else number
            with pytest.raises(ValidationError, match=name):
                type(part).model_validate(part.model_dump() | {name: changed})


def test_manifest_refuses_a_list_of_packs_above_the_size_limit():
    there = File(bytes=MAX_PACKS_BYTES, sha256="0" * 64)
    Files(contents=there, instructions=there, packs=there)
    with pytest.raises(ValidationError, match="packs"):
        Files(contents=there, instructions=there, packs=there.model_copy(update={"bytes": MAX_PACKS_BYTES + 1}))


def test_encode_gives_equal_bytes_for_equal_manifests():
    first = manifest(run_id="r", sources={"postgres.main": source(), "config.code": source()})
    second = manifest(run_id="r", sources={"config.code": source(), "postgres.main": source()})
    assert encode(first) == encode(second)
    assert encode(first).endswith(b"}\n")
    assert Manifest.model_validate_json(encode(first)) == first


def test_write_manifest_cuts_warnings_to_stay_below_the_size_limit(tmp_path):
    warnings = tuple(f"{number}: {'x' * 500}" for number in range(1000))
    for sources in (1, 40, 90):
        entries = {f"files.f{number}": source(warnings=warnings) for number in range(sources)}
        folder = tmp_path / str(sources)
        folder.mkdir()
        written = write_manifest(folder, manifest(sources=entries), KEY)
        assert (folder / "manifest.json").stat().st_size <= MAX_BYTES
        for entry in written.sources.values():
            kept = len(entry.warnings) - 1
            assert kept >= 0
            assert entry.warnings[-1].startswith(f"{1000 - kept} more warnings")


def test_write_manifest_drops_counts_to_stay_below_the_size_limit(tmp_path):
    counts = {f"a database with a name {number}": number for number in range(4000)}
    entry = source().model_copy(update={"totals": source().totals.model_copy(update={"counts": counts})})
    written = write_manifest(tmp_path, manifest(sources={"mongo.many": entry, "files.few": source()}), KEY)
    assert written.sources["mongo.many"].totals.counts == {}


def test_write_manifest_refuses_too_many_sources(tmp_path):
    with pytest.raises(ManifestError, match="more than 64000"):
        write_manifest(tmp_path, manifest(sources={f"files.f{number}": source() for number in range(300)}), KEY)
    assert list(tmp_path.iterdir()) == []


def test_manifest_of_twenty_sources_with_many_packs_stays_below_the_size_limit():
    packs = 1000
    entries = {f"postgres.p{number}": source(packs=packs) for number in range(20)}
    assert len(encode(manifest(sources=entries))) < MAX_BYTES


def test_manifest_escapes_text_that_is_not_unicode():
    entry = source(warnings=("cannot read a\udcffb",))
    assert entry.warnings == ("cannot read a\\udcffb",)
    assert encode(manifest(sources={"files.uploads": entry}))


def test_manifest_begin_end_and_skew_cover_all_sources():
    sources = {
        "postgres.main": source(NOW, NOW + timedelta(minutes=30)),
        "mongo.documents": source(NOW - timedelta(seconds=2), NOW + timedelta(minutes=5), consistency="fuzzy"),
        "files.uploads": source(NOW + timedelta(seconds=3), NOW + timedelta(minutes=7), consistency="scan"),
    }
    made = manifest(sources=sources)
    assert made.begins == NOW - timedelta(seconds=2)
    assert made.ends == NOW + timedelta(minutes=7)
    assert skew(sources) == 422
    assert skew({"postgres.main": sources["postgres.main"]}) == 0


def test_manifest_is_valid_only_when_complete_and_every_source_has_the_level():
    assert manifest(level="decoded").valid("decoded")
    assert manifest(level="decoded").valid("stored")
    assert not manifest(level="stored").valid("decoded")
    assert not manifest(missing={"files.uploads": "no answer"}).valid("stored")
    assert not manifest(sources={"postgres.a": source(level="decoded"), "postgres.b": source(level="stored")}).valid("decoded")


def test_new_set_id_is_deterministic_and_is_set_id_refuses_malformed_ids():
    one = new_set_id(NOW, "manual__2026-11-23")
    assert one == new_set_id(NOW, "manual__2026-11-23")
    assert one != new_set_id(NOW, "manual__2026-11-24")
    assert one.startswith("20261123T120000Z-")
    assert is_set_id(one)
    assert not any(map(is_set_id, ("latest", "", one + "x", one.lower(), f"../{one}", f"{one}\n")))


def test_set_files_lists_every_file_of_a_set_with_packs_first(made):
    folder, written = made
    packs = parse_packs((folder / "packs.jsonl").read_bytes(), written)
    assert [pack.number for pack in packs] == [0, 1, 2]
    files = set_files(written, packs)
    assert set(files) | {"manifest.json", "manifest.json.sig"} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    }
    assert list(files)[:3] == [pack_path("postgres.main", f"shop.{number:03d}.tar.zst.age") for number in range(3)]


def test_parse_packs_refuses_a_list_that_differs_from_the_manifest(made):
    folder, written = made
    data = (folder / "packs.jsonl").read_bytes()
    for changed in (b"", data[:-1], data.replace(b"shop.000", b"shop.009"), data + data.splitlines()[0]):
        with pytest.raises(ArtifactError, match="is not the one that its manifest names"):
            parse_packs(changed, written)


@pytest.mark.parametrize("line", [b"[]", b"1", b"{}", b"{", b'{"source": 7}', b"\xff", b'"\\ud800"', b"[" * 100_000])
def test_parse_packs_refuses_signed_lines_of_a_wrong_shape_in_words(line):
    """Whoever has the key signed them, or a version with a defect."""
    files = Files(contents=NOTHING, instructions=NOTHING, packs=File(bytes=len(line), sha256=hashlib.sha256(line).hexdigest()))
    with pytest.raises(ArtifactError, match="is no list of packs"):
        parse_packs(line, manifest(files=files))


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "../x", "postgres/../../x", "postgres//x", "postgres/main/", "manifest.json", "x", "postgres/./x", ".hidden/x", "a/b\n",
     "records/20261123T120000.000000Z-hold.json", "postgres/main/" + "x" * 256, "a/b/c/d/e/f", "a/b c", "a/ä", "a\\b/c"],
)  # fmt: skip
def test_stored_pack_refuses_unsafe_and_reserved_paths(file):
    with pytest.raises(ValidationError):
        StoredPack(**PACK | {"file": file})
