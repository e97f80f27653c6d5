"""Each rule of preflight, on made-up facts."""

from dataclasses import replace
from pathlib import Path

import pytest

from recovery.plan.model import Plan
from recovery.restore.preflight_facts import Disk, Facts, Overlap
from recovery.restore.preflight_rules import ROOM, Judgement, judge
from recovery.runs.restore_request import Request
from recovery.sources.model import Finding, Preflight, Space
from tests.support.sets import NOW, manifest, source

STAGING = "/staging/shop/restores/0a1b2c3d"
PLAN = Plan.model_validate(
    {
        "plan": "shop",
        "sources": {"postgres": {"main": {"connection": "pg"}}, "files": {"uploads": {"path": "/srv/uploads"}}},
        "encryption": {"recipients": ["age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"], "identity": "id"},
        "signing": "signer",
        "destinations": {"near": {"folder": "/backups", "keep_last": 3}},
        "approvals": {"approvers": [{"id": "alice", "name": "Alice"}]},
        "pack": "1KiB",
    }
)
MAIN, UPLOADS = "postgres.main", "files.uploads"
SHOP = ("postgres", "7001", "shop")


def made_up(spaces=(), work=None, reports=None, **known):
    """Facts of a restore of two sources with nothing against it but what is given; room for 10 KiB in staging."""
    asked = {key: known.pop(key) for key in ("target", "method") if key in known}
    request = Request(run_id="run", requester="bob", started=NOW, sources=(MAIN, UPLOADS), **asked)
    reports = reports or {MAIN: Preflight("pg", bytes_needed=work or {}, second_copy=tuple(spaces)), UPLOADS: Preflight("folder")}
    chosen = manifest(plan="shop", sources={MAIN: source(stored=300), UPLOADS: source(stored=400)})
    known["disks"] = {STAGING: Disk(1, 10 << 10)} | known.get("disks", {})
    return Facts(Path(STAGING), PLAN, request, chosen, reports=reports, **known)


def refusals(facts):
    return [str(finding) for finding in judge(facts) if finding.level == "refusal"]


def warnings(facts):
    return [str(finding) for finding in judge(facts) if finding.level == "warning"]


def room(facts):
    return [(finding.level, finding.text) for finding in judge(facts) if finding.about == ROOM]


def test_restore_without_objections_gets_two_facts_about_room():
    assert judge(made_up()) == [
        Judgement("fact", f"{STAGING}: 10.0 KiB free; work needs 2.0 KiB, a copy beside the live data 0 B", ROOM),
        Judgement("fact", "As far as known there is room for two copies: method swap is recommended.", ROOM),
    ]


def test_failing_hooks_are_refused_and_failing_checks_are_warned_of():
    facts = made_up(failing_hooks={"The hook a": "no rights."}, failing_checks={"The check b": "no role."})
    assert refusals(facts) == ["The hook a would fail: no rights."]
    assert warnings(facts) == ["The check b would fail: no role."]


def test_services_that_can_not_be_stopped_are_refused():
    assert refusals(made_up(failing_services=["app is paused: unpause it"])) == ["Services can't be stopped: app is paused: unpause it"]


def test_findings_are_ordered_by_restore_then_source_then_room():
    """Of the restore as a whole, then source by source, then of room."""
    facts = made_up(
        target="elsewhere",
        failures={"mongo.documents": "It does not answer."},
        reports={MAIN: Preflight("pg"), UPLOADS: Preflight("folder", findings=(Finding("refusal", "no such part."),))},
        locations={MAIN: {SHOP}},
        live={"shop": {SHOP}},
        occupied_locations={MAIN: ["database shop, 7 MiB"]},
        disks={STAGING: Disk(1, 1)},
    )
    starts = [
        "mongo.documents: It",
        "postgres.main: the target elsewhere is the live system itself",
        "postgres.main: the target elsewhere is",
    ]
    starts += ["files.uploads: no such part.", f"{STAGING}: 1 B free", "There is too little room"]
    found = refusals(facts)
    assert len(found) == len(starts)
    assert all(text.startswith(start) for text, start in zip(found, starts, strict=True)), found


# Sources


def test_source_without_report_is_refused():
    facts = made_up(failures={MAIN: "The server does not answer."}, reports={UPLOADS: Preflight("folder")})
    assert refusals(facts) == ["postgres.main: The server does not answer."]


def test_findings_of_source_are_reported_with_source_id():
    said = (Finding("fact", "is gone"), Finding("warning", "is old"), Finding("refusal", "is full"))
    found = judge(made_up(reports={MAIN: Preflight("pg"), UPLOADS: Preflight("folder", findings=said)}))
    assert found[:3] == [Judgement(each.level, each.text, UPLOADS) for each in said]


def overlap(*, left_out, lost=None):
    return Overlap((MAIN, UPLOADS), ("files", "/", "srv", "years"), left_out, lost)


def test_overlapping_sources_are_refused_once():
    (text,) = refusals(made_up(overlaps=[overlap(left_out=True), overlap(left_out=False), overlap(left_out=False)]))
    assert text.startswith("postgres.main and files.uploads would replace each other at live (files///srv/years). Correct")


def test_each_overlapping_pair_of_sources_is_refused():
    other = replace(overlap(left_out=False), sources=(UPLOADS, "files.more"))
    assert len(refusals(made_up(overlaps=[overlap(left_out=False), other]))) == 2


def test_overlap_excluded_by_outer_source_is_accepted():
    assert not refusals(made_up(overlaps=[overlap(left_out=True)]))


def test_in_place_with_missing_folder_of_two_sources_is_refused():
    lost = [overlap(left_out=True, lost=Path("/srv"))]
    assert refusals(made_up(method="in place", overlaps=lost)) == [
        "/srv is gone, and both postgres.main and files.uploads need it. Choose method: swap, or restore one after the other."
    ]
    assert not refusals(made_up(overlaps=lost))


# The target


@pytest.mark.parametrize("live", [SHOP, SHOP[:2], (*SHOP, "orders")])
def test_target_in_live_system_is_refused_for_affected_source(live):
    facts = made_up(target="elsewhere", locations={MAIN: {SHOP}, UPLOADS: {("files", "/", "srv")}}, live={"shop": {live}})
    (text,) = refusals(facts)
    assert text.startswith("postgres.main: the target elsewhere is the live system itself (postgres/7001/shop). Correct the plan")
    assert "if it is a clone of the live server" in text


def test_target_in_live_system_of_other_plan_is_refused():
    facts = made_up(target="elsewhere", locations={MAIN: {SHOP}}, live={"shop": set(), "crm": {SHOP}})
    assert refusals(facts) == [
        "postgres.main: the target elsewhere is the live system of the plan crm (postgres/7001/shop). Correct the plan or the Connection."
    ]


def test_target_database_beside_live_database_is_accepted():
    assert not refusals(made_up(target="elsewhere", locations={MAIN: {SHOP}}, live={"shop": {(*SHOP[:2], "shop_live")}}))


def test_unreachable_live_system_is_a_warning_for_each_source():
    facts = made_up(target="elsewhere", locations={MAIN: {SHOP}, UPLOADS: {("files", "/")}}, silent=[MAIN, "the plan file x.yaml"])
    text = "Whether this is the live system can't be compared: postgres.main, the plan file x.yaml does not answer."
    assert warnings(facts) == [f"{MAIN}: {text}", f"{UPLOADS}: {text}"]


def test_occupied_target_is_refused_and_first_locations_are_listed():
    there = [f"database shop{number}, 1 MiB" for number in range(25)]
    (text,) = refusals(made_up(target="elsewhere", occupied_locations={MAIN: there}))
    assert text.startswith("postgres.main: the target elsewhere is not empty: database shop0, 1 MiB, ")
    assert text.endswith("and 5 more. Write elsewhere into overwrite if that may be set aside.")


# Room


def server(needed, free, freed=0):
    return Space("the server", needed, free, freed=freed)


def test_needs_are_added_up_by_file_system():
    """Two folders of one disk, and one of another; a pack of each source; what is elsewhere, by its name."""
    disks = {"/srv": Disk(1, 10 << 10), "/var": Disk(2, 5 << 10)}
    spaces = (Space("/srv/uploads", 3 << 10, None, folder="/srv"), server(100, 900), server(200, 900))
    facts = made_up(spaces, {"/srv": 1 << 10, "/var": 7}, disks=disks)
    assert [text for _, text in room(facts)[:3]] == [
        f"{STAGING}: 10.0 KiB free; work needs 3.0 KiB, a copy beside the live data 3.0 KiB",
        "/var: 5.0 KiB free; work needs 7 B, a copy beside the live data 0 B",
        "the server: 900 B free; work needs 0 B, a copy beside the live data 300 B",
    ]


def test_in_place_needs_room_for_safety_set_in_staging():
    """As much as the set takes at a destination, and the largest dump."""
    assert "work needs 3.1 KiB" in room(made_up(method="in place"))[0][1]


@pytest.mark.parametrize("method", ["swap", "in place"])
def test_restore_with_too_little_room_in_staging_is_refused(method):
    found = refusals(made_up(work={STAGING: 9 << 10}, method=method))
    assert any(text.startswith(f"{STAGING}: 10.0 KiB free; work needs 1") and "too little. Make room, or" in text for text in found)


def test_unknown_room_is_a_warning():
    facts = made_up([server(1, None)])
    assert warnings(facts) == ["How much is free can't be found out from here: the server. Look there before you approve."]
    assert ("fact", "the server: an unknown size free; work needs 0 B, a copy beside the live data 1 B") in room(facts)


def test_unknown_room_is_refused_for_drill():
    found = refusals(made_up([server(1, None)], target="scratch"))
    assert found == ["How much is free can't be found out for the server, and backups need the same disk."]


def test_unknown_room_is_not_reported_when_no_room_is_needed():
    assert not warnings(made_up([server(0, None)]))


NO_COPY = "There is no room for a copy beside the live data at the server. Make room, or choose method: in place."
TOO_LITTLE = "There is too little room at the server. Make room there."
TWO_COPIES = "As far as known there is room for two copies: method swap is recommended."
IN_PLACE = "There is no room for a second copy at the server: in place is the method that fits."
NEITHER = "The set does not fit even in place at the server (dropping the live data gives back 2 B). Make room."
SWAP_WOULD_DO = "There is room for two copies, so method swap would do: it replaces nothing before all is verified."


@pytest.mark.parametrize(
    ("asked", "space", "level", "text"),
    [
        ({}, server(5, 5), "fact", TWO_COPIES),
        ({}, server(6, 5), "refusal", NO_COPY),
        ({"target": "elsewhere"}, server(6, 5), "refusal", TOO_LITTLE),
        ({"target": "elsewhere"}, server(5, 5), "fact", TWO_COPIES),
        ({"method": "in place"}, server(5, 5), "warning", SWAP_WOULD_DO),
        ({"method": "in place"}, server(7, 5, freed=2), "fact", IN_PLACE),
        ({"method": "in place"}, server(8, 5, freed=2), "refusal", NEITHER),
        ({"method": "in place"}, server(8, None), "fact", TWO_COPIES),
        ({"method": "beside"}, server(5, 5), "fact", "the server: 5 B free; work needs 0 B, a copy beside the live data 5 B"),
        ({"method": "beside"}, server(6, 5), "refusal", TOO_LITTLE),
    ],
)
def test_method_is_judged_by_room(asked, space, level, text):
    assert room(made_up([space], **asked))[-1] == (level, text)


def test_other_restores_under_way_are_a_warning_about_room():
    assert warnings(made_up(others=["drill 1 of crm to scratch", "restore 2 of shop to live"])) == [
        "Not in these numbers is what others under way need: drill 1 of crm to scratch, restore 2 of shop to live."
    ]
