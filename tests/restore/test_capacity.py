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


def test_room_for_two_copies_recommends_the_switch_with_numbers(run):
    run.ask()
    findings = found(run, Space("the server", 3 << 20, 5 << 20))
    assert says(findings, "fact", "the server", "5.0 MiB free", "3.0 MiB")
    assert says(findings, "fact", "method swap is recommended")
    assert not says(findings, "refusal", "")


def test_no_room_for_a_second_copy_refuses_the_switch_and_names_the_other_method(run):
    run.ask()
    findings = found(run, Space("the server", 6 << 20, 5 << 20))
    assert says(findings, "refusal", "no room for a copy beside the live data at the server", "method: in place")


def test_unknown_room_is_refused_to_servers_of_a_drill_which_share_a_disk_with_backups(run):
    steps.choose_drill(run, steps.DrillRequest())
    assert says(found(run, Space("somewhere", 1, None)), "refusal", "somewhere")


def test_in_place_needs_no_second_copy(run):
    run.ask(method="in place")
    findings = found(run, Space("the server", 6 << 20, 5 << 20, freed=2 << 20))
    assert says(findings, "fact", "in place is the method that fits")
    assert not says(findings, "refusal", "")


def test_a_set_that_does_not_fit_even_in_place_is_refused(run):
    run.ask(method="in place")
    findings = found(run, Space("the server", 8 << 20, 5 << 20, freed=2 << 20))
    assert says(findings, "refusal", "does not fit even in place at the server", "2.0 MiB")


def test_in_place_with_room_for_two_copies_is_advised_against(run):
    run.ask(method="in place")
    assert says(found(run, Space("the server", 1, 5 << 20)), "warning", "method swap would do")


def test_needs_of_one_file_system_are_added_up(run):
    run.ask()
    free = shutil.disk_usage(run.folder).free
    half = Space(str(run.folder), free * 2 // 3, free, folder=str(run.folder))
    assert not says(found(run, half), "refusal", "")
    assert says(found(run, half, half), "refusal", "no room for a copy")
    assert says(found(run, work=2 * free), "refusal", "too little")


def test_what_can_not_be_known_is_said(run):
    run.ask()
    assert says(found(run, Space("the server of shop_postgres", 1, None)), "warning", "can't be found out", "shop_postgres")
