"""Warnings that people have not been told yet, of real sets of a sample system."""

import os
import stat

import pytest

from recovery.backup import steps, upload
from recovery.common.errors import DestinationError
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


@pytest.fixture
def system(tmp_path):
    return SampleSystem(tmp_path / "small", "small")


def socket(system, name):
    os.mknod(system.storage / name, stat.S_IFSOCK | 0o600)


def left_out(system, *names):
    paths = ", ".join(str(system.storage / name) for name in names)
    return {"files.uploads": [f"uploads: sockets and devices are left out: {paths}."]}


def uploaded(system, staged, meanwhile=lambda: None, places=("near", "far")):
    """A backup up to its last step; something may happen after each step."""
    works = [steps.Work(system.context(), staged, source_id) for source_id in staged.run().sources]
    for step in (steps.dump, steps.compress, steps.verify):
        for work in works:
            step(work)
        meanwhile()
    for place in places:
        upload.upload(system.context(), staged, place)
    return staged


def told(system, staged):
    """What people are told at the end of a backup, by each mail."""
    found = []
    upload.finish(system.context(), staged, staged.run().sources if staged.begun else system.plan().source_ids, found.append)
    return found


def test_warning_is_told_with_the_first_set_that_has_it_and_not_with_the_next(system):
    system.back_up("clean")
    socket(system, "first")
    assert told(system, uploaded(system, system.begin_backup("with one"))) == [left_out(system, "first")]
    assert told(system, uploaded(system, system.begin_backup("the same"))) == []
    socket(system, "second")
    assert told(system, uploaded(system, system.begin_backup("with two"))) == [left_out(system, "first", "second")]


def test_all_warnings_are_told_of_a_first_set_and_when_the_last_set_cannot_be_read(system):
    socket(system, "first")
    assert told(system, uploaded(system, system.begin_backup("first"))) == [left_out(system, "first")]
    away = [(system.folder / place).rename(system.folder / f"{place} away") for place in ("near", "far")]
    staged = system.begin_backup("second")
    for path in away:
        path.rename(str(path).removesuffix(" away"))
    assert told(system, uploaded(system, staged)) == [left_out(system, "first")]


def test_warnings_of_a_set_that_a_destination_lacks_are_told_with_the_next_set(system):
    system.back_up("clean")
    socket(system, "first")
    staged = uploaded(system, system.begin_backup("failed"), places=("near",))
    with pytest.raises(DestinationError, match="far has no"):
        told(system, staged)
    assert told(system, uploaded(system, system.begin_backup("next"))) == [left_out(system, "first")]


def test_warnings_of_a_set_that_lacks_a_source_are_told_with_the_next_complete_set(system):
    system.back_up("clean")
    socket(system, "first")
    assert told(system, uploaded(system, system.begin_backup("part", sources=("files.uploads",)))) == []
    assert told(system, uploaded(system, system.begin_backup("whole"))) == [left_out(system, "first")]


def test_files_that_changed_while_they_were_read_are_not_told(system):
    """Also if they are more than a manifest has room for."""

    def write():
        for log in logs:
            log.write_text(log.read_text() + "a line more\n")

    logs = [system.storage / f"log {number}" for number in range(30)]
    for log in logs:
        log.touch()
    system.back_up("clean")
    staged = uploaded(system, system.begin_backup("busy"), write)
    assert told(system, staged) == []
    socket(system, "first")
    assert told(system, uploaded(system, system.begin_backup("busy again"), write)) == [left_out(system, "first")]


def test_more_warnings_than_a_manifest_has_room_for_are_told_when_their_number_changes(system, monkeypatch):
    """Of a source whose warnings are about itself, as a database's are."""
    kind = type(system.context().source("config.settings", steps.Dumper))
    original, number = kind.dump, 25

    def dump(self, folder, opened):
        return original(self, folder, opened).model_copy(update={"warnings": tuple(f"table {each}" for each in range(number))})

    monkeypatch.setattr(kind, "dump", dump)
    system.back_up("many")
    assert told(system, uploaded(system, system.begin_backup("the same"))) == []
    number = 26
    more = "7 more warnings; the log of the run and the contents have them all."
    assert told(system, uploaded(system, system.begin_backup("one more"))) == [{"config.settings": [more]}]


def test_new_warnings_are_not_told_again_when_the_end_of_a_backup_is_cleared(system):
    socket(system, "first")
    staged = uploaded(system, system.begin_backup("run"))
    assert len(told(system, staged)) == 1
    assert told(system, staged) == []


def test_new_warnings_are_told_again_when_the_end_of_a_backup_was_killed_while_it_told_them(system):
    socket(system, "first")
    staged = uploaded(system, system.begin_backup("run"))

    def killed(found):
        raise SystemExit

    with pytest.raises(SystemExit):
        upload.finish(system.context(), staged, staged.run().sources, killed)
    assert len(told(system, staged)) == 1
