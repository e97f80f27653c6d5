"""Whether there is room, and which method is recommended."""

import shutil

import pytest

from recovery.drill import steps
from recovery.restore import choose_set
from recovery.restore.preflight_facts import Facts, disks
from recovery.restore.preflight_rules import judge
from recovery.sources.model import Preflight, Space
from tests.support.system import SampleSystem


@pytest.fixture
def run(tmp_path):
    system = SampleSystem(tmp_path / "small", "small")
    system.back_up()
    made = system.restore()
    made.ask = lambda **asked: choose_set.choose(made, system.ask(made, **asked))
    return made


def found(run, *spaces, work=0):
    report = Preflight("target", bytes_needed={str(run.folder): work}, second_copy=spaces)
    there = disks(run.folder, [report])
    facts = Facts(run.folder, run.plan, run.request(), run.manifest(), reports={"files.uploads": report}, disks=there)
    return {(finding.level, finding.text) for finding in judge(facts)}


def says(findings, level, *words):
    return any(each == level and all(word in text for word in words) for each, text in findings)


def test_preflight_recommends_swap_and_states_sizes_when_two_copies_fit(run):
    run.ask()
    findings = found(run, Space("the server", 3 << 20, 5 << 20))
    assert says(findings, "fact", "the server", "5.0 MiB free", "3.0 MiB")
    assert says(findings, "fact", "method swap is recommended")
    assert not says(findings, "refusal", "")


def test_preflight_refuses_swap_without_room_for_second_copy_and_suggests_in_place(run):
    run.ask()
    findings = found(run, Space("the server", 6 << 20, 5 << 20))
    assert says(findings, "refusal", "no room for a copy beside the live data at the server", "method: in place")


def test_preflight_refuses_drill_when_free_room_is_unknown(run):
    steps.choose_drill(run, steps.DrillRequest())
    assert says(found(run, Space("somewhere", 1, None)), "refusal", "somewhere")


def test_preflight_accepts_in_place_without_room_for_second_copy(run):
    run.ask(method="in place")
    findings = found(run, Space("the server", 6 << 20, 5 << 20, freed=2 << 20))
    assert says(findings, "fact", "in place is the method that fits")
    assert not says(findings, "refusal", "")


def test_preflight_refuses_set_that_does_not_fit_in_place(run):
    run.ask(method="in place")
    findings = found(run, Space("the server", 8 << 20, 5 << 20, freed=2 << 20))
    assert says(findings, "refusal", "does not fit even in place at the server", "2.0 MiB")


def test_preflight_warns_against_in_place_when_two_copies_fit(run):
    run.ask(method="in place")
    assert says(found(run, Space("the server", 1, 5 << 20)), "warning", "method swap would do")


def test_preflight_adds_up_needs_on_same_file_system(run):
    run.ask()
    free = shutil.disk_usage(run.folder).free
    half = Space(str(run.folder), free * 2 // 3, free, folder=str(run.folder))
    assert not says(found(run, half), "refusal", "")
    assert says(found(run, half, half), "refusal", "no room for a copy")
    assert says(found(run, work=2 * free), "refusal", "too little")


def test_preflight_warns_when_free_room_is_unknown(run):
    run.ask()
    assert says(found(run, Space("the server of shop_postgres", 1, None)), "warning", "can't be found out", "shop_postgres")
