import shutil
from datetime import timedelta

import pytest

from recovery.common.errors import DestinationError, PlanError, RestoreError
from recovery.crypto.signing import SigningKey
from recovery.destinations.base import Destination
from recovery.destinations.folder import Folder
from recovery.sets.catalog import Catalog, CatalogSet, choose, list_destination, read_catalog
from recovery.sets.layout import MANIFEST_FILE, RECORDS_FOLDER, SIGNATURE_FILE
from recovery.sets.records import add_record, hold
from recovery.sets.transfer import upload_set
from tests.support.sets import KEY, NOW, make_set, manifest, put, s3_destination, source

HOUR = timedelta(hours=1)
RPO = timedelta(hours=24)


def folder(tmp_path, name) -> Folder:
    (tmp_path / name).mkdir()
    return Folder(name, tmp_path / name)


@pytest.fixture
def places(tmp_path, s3_server) -> list[Destination]:
    return [folder(tmp_path, "local"), s3_destination(s3_server)]


def ship(tmp_path, destinations, created=NOW, **changes):
    path, made = make_set(tmp_path / "staging", created, **changes)
    for destination in destinations:
        upload_set(path, destination)
    shutil.rmtree(path)
    return made


def read(places):
    return read_catalog("openmanus", places, KEY.verify_key)


def test_catalog_lists_sets_of_all_destinations_newest_first(tmp_path, places):
    old = ship(tmp_path, places, NOW - 3 * HOUR)
    newest = ship(tmp_path, places[1:], NOW)
    middle = ship(tmp_path, places[:1], NOW - HOUR)
    catalog = read(places)
    assert [each.manifest for each in catalog.sets] == [newest, middle, old]
    assert [each.destinations for each in catalog.sets] == [("offsite",), ("local",), ("local", "offsite")]
    assert (catalog.findings, catalog.unreachable) == ((), ())


def test_choose_orders_sets_by_recorded_time_and_not_by_set_id(tmp_path):
    local = folder(tmp_path, "local")
    younger = manifest(NOW, set_id="20200101T000000Z-0000")
    older = manifest(NOW - HOUR, set_id="20300101T000000Z-ffff")
    catalog = Catalog("openmanus", (CatalogSet(younger, ("local",)), CatalogSet(older, ("local",))), (), ())
    assert choose(catalog, "latest", now=NOW, level="decoded", rpo=RPO).chosen.manifest == younger
    assert read([local]).sets == ()


@pytest.mark.parametrize("left", [SIGNATURE_FILE, f"{RECORDS_FOLDER}/", ""])
def test_catalog_reports_a_set_that_lost_its_manifest_and_no_upload_under_way(tmp_path, places, left):
    kept = ship(tmp_path, places, NOW - HOUR)
    robbed = ship(tmp_path, places)
    for place in places:
        add_record(place, hold(robbed, NOW, "alice", "an audit"), KEY)
        keys = [entry.key for entry in place.list(f"{robbed.path}/")]
        place.delete([f"{robbed.path}/{MANIFEST_FILE}", *(key for key in keys if left and left not in key)])
    catalog = read(places)
    assert [each.manifest for each in catalog.sets] == [kept]
    assert [f"{robbed.path} has files of a set, but no manifest" in finding for finding in catalog.findings] == [True, True]
    for place in places:
        place.delete([entry.key for entry in place.list(f"{robbed.path}/")])
        put(place, f"{robbed.path}/postgres/main/shop.000.tar.zst.age", b"being uploaded", tmp_path)
    assert read(places).findings == ()


def test_list_destination_lists_a_folder_without_manifest_apart_from_sets(tmp_path, places):
    ship(tmp_path, places)
    for path in (places[0].root / "openmanus").iterdir():
        (path / "manifest.json").unlink()
    listing = list_destination(places[0], "openmanus", KEY.verify_key)
    assert listing.manifests == listing.findings == ()
    assert len(listing.without) == 1


def tamper_content(root, made):
    path = root / made.path / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"hold": false', b'"hold": true'))


def tamper_signature(root, made):
    (root / made.path / "manifest.json.sig").unlink()


def tamper_with_another_key(root, made):
    path = root / made.path / "manifest.json"
    (root / made.path / "manifest.json.sig").write_bytes(SigningKey.generate().sign(path.read_bytes()))


def tamper_place(root, made):
    (root / made.path).rename(root / "openmanus" / "20991231T000000Z-0000")


def tamper_size(root, made):
    (root / made.path / "manifest.json").write_bytes(b" " * 100_000)


@pytest.mark.parametrize("tamper", [tamper_content, tamper_signature, tamper_with_another_key, tamper_place, tamper_size])
def test_catalog_reports_a_tampered_manifest_as_finding_and_lists_no_set(tmp_path, tamper):
    local = folder(tmp_path, "local")
    valid = ship(tmp_path, [local], NOW - HOUR)
    tampered = ship(tmp_path, [local])
    tamper(local.root, tampered)
    catalog = read([local])
    assert [each.manifest for each in catalog.sets] == [valid]
    [finding] = catalog.findings
    assert str(local.root) in finding
    choice = choose(catalog, "latest", now=NOW, level="decoded", rpo=RPO)
    assert choice.chosen.manifest == valid
    assert finding in choice.warnings


def test_catalog_lists_other_sets_when_a_manifest_can_not_be_read(tmp_path):
    local = folder(tmp_path, "local")
    other, unreadable = ship(tmp_path, [local], NOW - HOUR), ship(tmp_path, [local])
    path = local.root / unreadable.path / "manifest.json"
    path.unlink()
    path.mkdir()
    catalog = read([local])
    assert [each.manifest for each in catalog.sets] == [other]
    assert unreadable.set_id in catalog.findings[0]
    (local.root / other.path / "manifest.json").unlink()
    (local.root / other.path / "manifest.json").mkdir()
    with pytest.raises(DestinationError, match="Is a directory"):
        read([local])


def test_catalog_reports_different_manifests_of_the_same_set_id_as_finding(tmp_path, places):
    ship(tmp_path, places[:1], run_id="r", note="one")
    ship(tmp_path, places[1:], run_id="r", note="two")
    catalog = read(places)
    assert [each.destinations for each in catalog.sets] == [("local",)]
    assert "different manifests at local, offsite" in catalog.findings[0]


def test_catalog_reports_an_unreachable_destination_and_lists_other_destinations(tmp_path, places):
    made = ship(tmp_path, places)
    shutil.rmtree(places[0].root)
    catalog = read(places)
    assert catalog.unreachable == ("local",)
    assert [each.destinations for each in catalog.sets] == [("offsite",)]
    choice = choose(catalog, "latest", now=NOW, level="decoded", rpo=RPO)
    assert choice.chosen.manifest == made
    assert any("local could not be read" in warning for warning in choice.warnings)
    with pytest.raises(RestoreError, match="local could not be read"):
        choose(catalog, "latest", now=NOW + 2 * RPO, level="decoded", rpo=RPO)


def test_catalog_fails_when_no_destination_can_be_read(tmp_path):
    gone = Folder("local", tmp_path / "gone")
    with pytest.raises(DestinationError, match="No destination can be read"):
        read([gone])


def catalog_of(*manifests):
    ordered = sorted(manifests, key=lambda each: each.created, reverse=True)
    return Catalog("openmanus", tuple(CatalogSet(each, ("local",)) for each in ordered), (), ())


def take(catalog, wanted="latest", now=NOW, **options):
    return choose(catalog, wanted, now=now, level="decoded", rpo=RPO, **options)


def test_choose_latest_takes_the_newest_valid_set():
    valid = manifest(NOW - 5 * HOUR)
    incomplete = manifest(NOW - 2 * HOUR, missing={"files.uploads": "no answer"})
    only_stored = manifest(NOW - HOUR, level="stored")
    choice = take(catalog_of(manifest(NOW - 9 * HOUR), valid, incomplete, only_stored))
    assert choice.chosen.manifest == valid
    assert choice.age == 5 * HOUR + timedelta(minutes=5)
    assert choice.lost(replaces=True) == "All data written in the last 5 h 5 min is lost."
    assert choice.lost(replaces=False) == "All data written in the last 5 h 5 min is not in it."


def test_choose_latest_older_than_the_rpo_requires_confirmation():
    made = manifest(NOW - RPO)
    with pytest.raises(RestoreError, match="1 d old; the plan's RPO is 1 d"):
        take(catalog_of(made))
    assert take(catalog_of(made), confirm_old=True).chosen.manifest == made
    exactly = manifest(NOW - RPO + timedelta(minutes=5))
    assert take(catalog_of(exactly)).age == RPO


def test_choose_latest_fails_without_a_valid_set():
    with pytest.raises(RestoreError, match="There is no valid set"):
        take(catalog_of())
    with pytest.raises(RestoreError, match="There is no valid set"):
        take(catalog_of(manifest(NOW, level="stored")), confirm_old=True)


def test_choose_by_set_id_takes_a_set_of_any_age():
    old, new = manifest(NOW - 100 * RPO), manifest(NOW)
    choice = take(catalog_of(old, new), old.set_id)
    assert choice.chosen.manifest == old
    assert choice.age > 100 * RPO


def test_choose_by_set_id_takes_an_invalid_set_and_warns_with_the_reasons():
    made = manifest(NOW, missing={"files.uploads": "it does not answer."}, sources={"postgres.main": source(level="stored")})
    choice = take(catalog_of(made), made.set_id)
    words = "files.uploads is missing (it does not answer); it was verified to the level checksum, the plan asks for content"
    assert any(words in warning for warning in choice.warnings)


@pytest.mark.parametrize("wanted", ["20261123T120000Z-zzzz", "../x", "", "newest", "LATEST"])
def test_choose_refuses_a_malformed_set_id(wanted):
    with pytest.raises(PlanError, match="is not a set id"):
        take(catalog_of(manifest()), wanted)


def test_choose_fails_for_a_set_id_that_no_destination_has():
    with pytest.raises(RestoreError, match="There is no set 20200101T000000Z-0000"):
        take(catalog_of(manifest()), "20200101T000000Z-0000")


def spanning(begin, end):
    return manifest(end + HOUR, sources={"files.uploads": source(begin, end, consistency="scan")})


def test_choose_newest_before_takes_no_set_that_ends_after_the_moment():
    early, late = spanning(NOW - 9 * HOUR, NOW - 8 * HOUR), spanning(NOW - 5 * HOUR, NOW - 3 * HOUR)
    catalog = catalog_of(early, late)
    assert take(catalog, newest_before="2026-11-23T09:00:00Z").chosen.manifest == late
    choice = take(catalog, newest_before="2026-11-23T09:59:59+01:00")
    assert choice.chosen.manifest == early
    assert any("ends 4 h 59 min before the moment asked for, 2026-11-23 08:59:59Z." in fact for fact in choice.facts)
    with pytest.raises(RestoreError, match="no valid set that ends before 2026-11-23T03:00:00Z"):
        take(catalog, newest_before="2026-11-23T03:00:00Z")


@pytest.mark.parametrize(
    ("moment", "words"),
    [("2026-11-23T09:00:00", "says no offset"), ("yesterday", "is not a moment"), ("2026-11-23T12:00:01Z", "still to come")],
)
def test_choose_newest_before_refuses_invalid_and_future_moments(moment, words):
    with pytest.raises(PlanError, match=words):
        take(catalog_of(manifest(NOW - HOUR)), newest_before=moment)


def test_choose_refuses_a_set_id_together_with_newest_before():
    made = manifest(NOW)
    with pytest.raises(PlanError, match="both given"):
        take(catalog_of(made), made.set_id, newest_before="2026-11-23T09:00:00Z")


def clock_ahead_while_dumping(by):
    """The clock was right again when the manifest was written."""
    return manifest(NOW - HOUR, sources={"files.uploads": source(NOW + by, consistency="scan")})


@pytest.mark.parametrize("future", [manifest(NOW + 365 * RPO), clock_ahead_while_dumping(365 * RPO)], ids=["all of it", "its dump"])
@pytest.mark.parametrize("options", [{}, {"newest_before": "2026-11-23T12:00:00Z"}], ids=["latest", "newest before"])
def test_choose_latest_or_newest_before_skips_a_future_dated_set_and_warns(future, options):
    past = manifest(NOW - HOUR)
    choice = take(catalog_of(future, past), **options)
    assert choice.chosen.manifest == past
    assert any(f"{future.set_id} is dated 36" in warning and "a clock was wrong" in warning for warning in choice.warnings)
    with pytest.raises(RestoreError, match=rf"There is no valid set .*{future.set_id} is dated"):
        take(catalog_of(future), **options)


def test_choose_latest_enforces_the_rpo_beside_a_future_dated_set():
    catalog = catalog_of(manifest(NOW + 365 * RPO), manifest(NOW - 2 * RPO))
    with pytest.raises(RestoreError, match=r"2 d old; the plan's RPO is 1 d\..* in the future: a clock was wrong"):
        take(catalog)


def test_choose_by_set_id_takes_a_future_dated_set_without_a_claim_of_data_loss():
    future = manifest(NOW + 365 * RPO)
    choice = take(catalog_of(future, manifest(NOW)), future.set_id)
    assert choice.chosen.manifest == future
    assert "is dated 364 d 23 h in the future" in choice.lost(replaces=True)
    assert any(f"{future.set_id} is dated 365 d in the future: a clock was wrong" in warning for warning in choice.warnings)


def test_choose_accepts_a_set_dated_a_few_minutes_ahead():
    made = manifest(NOW + timedelta(minutes=4), sources={"files.uploads": source(NOW + timedelta(minutes=3))})
    choice = take(catalog_of(made))
    assert (choice.chosen.manifest, choice.warnings) == (made, ())
    assert "dated 3 min in the future" in choice.lost(replaces=True)


def test_folder_that_cannot_be_listed_is_a_finding_and_hides_no_set(tmp_path, monkeypatch):
    local = folder(tmp_path, "local")
    kept = ship(tmp_path, [local])
    (local.root / "openmanus/20260101T000000Z-0000/packs").mkdir(parents=True)
    real = local.list

    def listed(prefix):
        if "20260101T000000Z-0000" in prefix:
            raise DestinationError("Could not list it.", "Look at it.")
        return real(prefix)

    monkeypatch.setattr(local, "list", listed)
    catalog = read([local])
    assert ([each.manifest for each in catalog.sets], catalog.unreachable) == ([kept], ())
    assert "20260101T000000Z-0000 has no manifest. Could not list it." in catalog.findings[0]


def test_finding_has_the_name_of_a_folder_on_one_line(tmp_path):
    local = folder(tmp_path, "local")
    put(local, f"openmanus/a\nERROR/{MANIFEST_FILE}", b"{}", tmp_path)
    [finding] = read([local]).findings
    assert "\n" not in finding
