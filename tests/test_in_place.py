"""Restores in place: a safety backup, then dropped and loaded; and back from the safety backup."""

import pytest

from recovery import answers, copies, preflight, restore, safety
from recovery.errors import RecoveryError, RestoreError
from recovery.records import read_records
from tests.small import Small, end, forward, said, steps


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    """A damaged system with a set of before."""
    made = Small(tmp_path / "whole", "whole", postgres=postgres_server, mongo=mongo_server)
    made.set_id = made.back_up()
    made.set_state = made.fingerprint()
    made.disaster()
    made.before = made.fingerprint()
    yield made
    made.drop()


def ask(whole, run, **asked):
    return whole.ask(run, method="in place", config="all", **asked)


def holds(whole, run, manifest):
    return [read_records(each, manifest.path, run.verify_key(), manifest).holds for each in run.destinations()]


def test_the_set_takes_the_place_of_the_live_data_and_a_safety_set_is_kept(whole):
    run = whole.restore()
    forward(whole, run, request=ask(whole, run))
    assert end(run) == "", said(run)
    assert whole.fingerprint() == whole.set_state
    assert whole.leftovers() == []
    made = run.safety.manifest()
    assert made.complete
    assert made.hold
    assert made.level == "decoded"
    assert run.id in made.note
    later = whole.restore("later")
    preflight.choose(later, whole.ask(later))
    assert later.manifest().set_id == whole.set_id  # not the safety set, which is newer
    assert all(holds(whole, run, made))
    copies.drop(run)
    assert not any(holds(whole, run, made))


def test_refused_at_the_last_gate_what_was_there_comes_back(whole):
    run = whole.restore()
    forward(whole, run, "gate accept", ask(whole, run))
    answers.reject(run, "accept", "alice")
    assert "alice rejected" in end(run)
    assert whole.fingerprint() == whole.before, said(run)
    assert all(whole.services.values())


@pytest.mark.parametrize("broken", ["switch mongo.documents", "switch files.uploads", "start services"])
def test_what_fails_half_way_is_taken_back(whole, broken, monkeypatch):
    run = whole.restore()
    for name, step in steps(whole, run, ask(whole, run)):
        if name == broken:
            break
        step()
    assert end(run)
    assert whole.fingerprint() == whole.before, said(run)
    assert all(whole.services.values())


def test_without_a_safety_set_nothing_is_dropped(whole):
    for place in ("near", "far"):
        (whole.folder / place).rename(whole.folder / f"gone {place}")
    run = whole.restore()
    for name, step in steps(whole, run, ask(whole, run)):
        if name == "choose":
            for place in ("near", "far"):
                (whole.folder / f"gone {place}").rename(whole.folder / place)
        if name == "safety":
            for place in ("near", "far"):
                (whole.folder / place).rename(whole.folder / f"gone {place}")
            with pytest.raises(RestoreError, match="No destination takes the safety set"):
                step()
            break
        step()
    with pytest.raises(RestoreError, match="no safety set"):
        restore.switch(run, "files.uploads")
    for place in ("near", "far"):
        (whole.folder / f"gone {place}").rename(whole.folder / place)
    assert end(run)
    assert whole.fingerprint() == whole.before
    assert all(whole.services.values())


def test_one_destination_for_the_safety_set_is_enough(whole):
    run = whole.restore()
    forward(whole, run, "stop services", ask(whole, run))
    (whole.folder / "near").rename(whole.folder / "gone")
    safety.make_safe(run)
    assert run.journal.said("safe")[-1].facts["destinations"] == ["far"]
    (whole.folder / "gone").rename(whole.folder / "near")
    end(run)
    made = run.safety.manifest()
    assert holds(whole, run, made)[1]
    copies.drop(run)
    assert not holds(whole, run, made)[1]
    assert whole.fingerprint() == whole.before


def test_what_was_written_until_the_services_stopped_comes_back(whole):
    run = whole.restore()
    forward(whole, run, "gate switch", ask(whole, run))
    (whole.storage / "while the gate waited").write_text("work\n")
    for name, step in steps(whole, run, run.request()):
        if name in {"stop services", "safety", "start services", "check", "gate accept"} or name.startswith("switch"):
            step()
    answers.reject(run, "accept", "alice")
    end(run)
    assert (whole.storage / "while the gate waited").read_text() == "work\n"


def test_a_set_that_can_not_be_read_whole_drops_nothing(whole):
    run = whole.restore()
    forward(whole, run, "gate plan", ask(whole, run))
    for folder in whole.set_folders(whole.set_id):
        pack = next((folder / "files" / "uploads").glob("*.age"))
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(bytes(data))
    restore.stage(run, "files.uploads")
    with pytest.raises(RecoveryError, match="could not be fetched"):
        restore.prove(run, "files.uploads")
    assert end(run)
    assert whole.fingerprint() == whole.before


def test_one_part_in_place_leaves_the_rest(whole):
    run = whole.restore()
    forward(whole, run, request=ask(whole, run, sources=("files.uploads",), only={"files.uploads": ("year1",)}))
    assert end(run) == "", said(run)
    found = whole.fingerprint()
    assert found["files.uploads"] == whole.before["files.uploads"] | {"year1": whole.set_state["files.uploads"]["year1"]}
    assert {name: value for name, value in found.items() if name != "files.uploads"} == {
        name: value for name, value in whole.before.items() if name != "files.uploads"
    }
