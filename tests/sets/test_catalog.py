import shutil
from datetime import timedelta

import pytest

from recovery.common.errors import DestinationError, PlanError, RestoreError
from recovery.crypto.signing import SigningKey
from recovery.destinations.base import Destination
from recovery.destinations.folder import Folder
from recovery.sets.catalog import Catalog, CatalogSet, choose, list_destination, read_catalog
from recovery.sets.transfer import upload_set
from tests.support.sets import KEY, NOW, make_set, manifest, s3_destination, source

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


def test_sets_of_all_destinations_newest_first_by_recorded_time(tmp_path, places):
    old = ship(tmp_path, places, NOW - 3 * HOUR)
    newest = ship(tmp_path, places[1:], NOW)
    middle = ship(tmp_path, places[:1], NOW - HOUR)
    catalog = read(places)
    assert [each.manifest for each in catalog.sets] == [newest, middle, old]
    assert [each.destinations for each in catalog.sets] == [("offsite",), ("local",), ("local", "offsite")]
    assert (catalog.findings, catalog.unreachable) == ((), ())


def test_names_say_nothing_about_the_order(tmp_path):
    local = folder(tmp_path, "local")
    younger = manifest(NOW, set_id="20200101T000000Z-0000")
    older = manifest(NOW - HOUR, set_id="20300101T000000Z-ffff")
    catalog = Catalog("openmanus", (CatalogSet(younger, ("local",)), CatalogSet(older, ("local",))), (), ())
    assert choose(catalog, "latest", now=NOW, level="decoded", rpo=RPO).chosen.manifest == younger
    assert read([local]).sets == ()


def test_what_has_no_manifest_is_no_set(tmp_path, places):
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
def test_a_manifest_that_cannot_be_believed_is_a_finding_and_no_set(tmp_path, tamper):
    local = folder(tmp_path, "local")
    good = ship(tmp_path, [local], NOW - HOUR)
    bad = ship(tmp_path, [local])
    tamper(local.root, bad)
    catalog = read([local])
    assert [each.manifest for each in catalog.sets] == [good]
    [finding] = catalog.findings
    assert str(local.root) in finding
    choice = choose(catalog, "latest", now=NOW, level="decoded", rpo=RPO)
    assert choice.chosen.manifest == good
    assert finding in choice.warnings


def test_a_manifest_that_cannot_be_read_hides_no_other(tmp_path):
    local = folder(tmp_path, "local")
    good, bad = ship(tmp_path, [local], NOW - HOUR), ship(tmp_path, [local])
    path = local.root / bad.path / "manifest.json"
    path.unlink()
    path.mkdir()
    catalog = read([local])
    assert [each.manifest for each in catalog.sets] == [good]
    assert bad.set_id in catalog.findings[0]
    (local.root / good.path / "manifest.json").unlink()
    (local.root / good.path / "manifest.json").mkdir()
    with pytest.raises(DestinationError, match="Is a directory"):
        read([local])


def test_two_true_manifests_under_one_id_are_a_finding(tmp_path, places):
    ship(tmp_path, places[:1], run_id="r", note="one")
    ship(tmp_path, places[1:], run_id="r", note="two")
    catalog = read(places)
    assert [each.destinations for each in catalog.sets] == [("local",)]
    assert "different manifests at local, offsite" in catalog.findings[0]


def test_a_destination_that_cannot_be_read_is_said_and_the_others_serve(tmp_path, places):
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


def test_no_destination_at_all_is_an_error(tmp_path):
    gone = Folder("local", tmp_path / "gone")
    with pytest.raises(DestinationError, match="No destination can be read"):
        read([gone])


def catalog_of(*manifests):
    ordered = sorted(manifests, key=lambda each: each.created, reverse=True)
    return Catalog("openmanus", tuple(CatalogSet(each, ("local",)) for each in ordered), (), ())


def take(catalog, wanted="latest", now=NOW, **options):
    return choose(catalog, wanted, now=now, level="decoded", rpo=RPO, **options)


def test_latest_is_the_newest_good_set():
    good = manifest(NOW - 5 * HOUR)
    incomplete = manifest(NOW - 2 * HOUR, missing={"files.uploads": "no answer"})
    only_stored = manifest(NOW - HOUR, level="stored")
    choice = take(catalog_of(manifest(NOW - 9 * HOUR), good, incomplete, only_stored))
    assert choice.chosen.manifest == good
    assert choice.age == 5 * HOUR + timedelta(minutes=5)
    assert any("5 h 5 min is lost" in fact for fact in choice.facts)


def test_latest_older_than_the_rpo_has_to_be_confirmed():
    made = manifest(NOW - RPO)
    with pytest.raises(RestoreError, match="1 d old; the plan's RPO is 1 d"):
        take(catalog_of(made))
    assert take(catalog_of(made), confirm_old=True).chosen.manifest == made
    exactly = manifest(NOW - RPO + timedelta(minutes=5))
    assert take(catalog_of(exactly)).age == RPO


def test_nothing_good_is_an_error():
    with pytest.raises(RestoreError, match="There is no valid set"):
        take(catalog_of())
    with pytest.raises(RestoreError, match="There is no valid set"):
        take(catalog_of(manifest(NOW, level="stored")), confirm_old=True)


def test_a_named_set_is_taken_at_any_age():
    old, new = manifest(NOW - 100 * RPO), manifest(NOW)
    choice = take(catalog_of(old, new), old.set_id)
    assert choice.chosen.manifest == old
    assert choice.age > 100 * RPO


def test_a_named_set_that_is_not_good_is_taken_with_a_warning_that_says_why():
    made = manifest(NOW, missing={"files.uploads": "it does not answer."}, sources={"postgres.main": source(level="stored")})
    choice = take(catalog_of(made), made.set_id)
    words = "files.uploads is missing (it does not answer); it was verified to the level checksum, the plan asks for content"
    assert any(words in warning for warning in choice.warnings)


@pytest.mark.parametrize("wanted", ["20261123T120000Z-zzzz", "../x", "", "newest", "LATEST"])
def test_what_is_no_set_id_is_refused(wanted):
    with pytest.raises(PlanError, match="is not a set id"):
        take(catalog_of(manifest()), wanted)


def test_a_set_that_nobody_has_is_an_error():
    with pytest.raises(RestoreError, match="There is no set 20200101T000000Z-0000"):
        take(catalog_of(manifest()), "20200101T000000Z-0000")


def spanning(begin, end):
    return manifest(end + HOUR, sources={"files.uploads": source(begin, end, consistency="scan")})


def test_newest_before_takes_nothing_younger_than_the_moment():
    early, late = spanning(NOW - 9 * HOUR, NOW - 8 * HOUR), spanning(NOW - 5 * HOUR, NOW - 3 * HOUR)
    catalog = catalog_of(early, late)
    assert take(catalog, newest_before="2026-11-23T09:00:00Z").chosen.manifest == late
    choice = take(catalog, newest_before="2026-11-23T09:59:59+01:00")
    assert choice.chosen.manifest == early
    assert any("ends 4 h 59 min before the moment asked for, 2026-11-23T08:59:59Z" in fact for fact in choice.facts)
    with pytest.raises(RestoreError, match="no valid set that ends before 2026-11-23T03:00:00Z"):
        take(catalog, newest_before="2026-11-23T03:00:00Z")


@pytest.mark.parametrize(
    ("moment", "words"),
    [("2026-11-23T09:00:00", "says no offset"), ("yesterday", "is not a moment"), ("2026-11-23T12:00:01Z", "still to come")],
)
def test_moments_that_are_guesses_are_refused(moment, words):
    with pytest.raises(PlanError, match=words):
        take(catalog_of(manifest(NOW - HOUR)), newest_before=moment)


def test_a_set_id_and_a_moment_contradict_each_other():
    made = manifest(NOW)
    with pytest.raises(PlanError, match="both given"):
        take(catalog_of(made), made.set_id, newest_before="2026-11-23T09:00:00Z")


def clock_ahead_while_dumping(by):
    """The clock was right again when the manifest was written."""
    return manifest(NOW - HOUR, sources={"files.uploads": source(NOW + by, consistency="scan")})


@pytest.mark.parametrize("future", [manifest(NOW + 365 * RPO), clock_ahead_while_dumping(365 * RPO)], ids=["all of it", "its dump"])
@pytest.mark.parametrize("options", [{}, {"newest_before": "2026-11-23T12:00:00Z"}], ids=["latest", "newest before"])
def test_a_set_from_the_future_is_never_the_latest_and_is_named(future, options):
    past = manifest(NOW - HOUR)
    choice = take(catalog_of(future, past), **options)
    assert choice.chosen.manifest == past
    assert any(f"{future.set_id} is dated 36" in warning and "a clock was wrong" in warning for warning in choice.warnings)
    with pytest.raises(RestoreError, match=rf"There is no valid set .*{future.set_id} is dated"):
        take(catalog_of(future), **options)


def test_a_set_from_the_future_does_not_switch_the_rpo_off():
    catalog = catalog_of(manifest(NOW + 365 * RPO), manifest(NOW - 2 * RPO))
    with pytest.raises(RestoreError, match=r"2 d old; the plan's RPO is 1 d\..* in the future: a clock was wrong"):
        take(catalog)


def test_a_set_from_the_future_is_taken_by_its_id_and_its_age_is_not_made_up():
    future = manifest(NOW + 365 * RPO)
    choice = take(catalog_of(future, manifest(NOW)), future.set_id)
    assert choice.chosen.manifest == future
    assert any("is dated 364 d 23 h in the future" in fact for fact in choice.facts)
    assert not any("in the last" in fact for fact in choice.facts)
    assert any(f"{future.set_id} is dated 365 d in the future: a clock was wrong" in warning for warning in choice.warnings)


def test_clocks_may_differ_a_little():
    made = manifest(NOW + timedelta(minutes=4), sources={"files.uploads": source(NOW + timedelta(minutes=3))})
    choice = take(catalog_of(made))
    assert (choice.chosen.manifest, choice.warnings) == (made, ())
    assert any("dated 3 min in the future" in fact for fact in choice.facts)
