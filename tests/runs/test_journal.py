import json
import os

import pytest

from recovery.common.errors import RestoreError
from recovery.runs.journal import Journal


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "journal.jsonl")


def test_journal_returns_entries_in_order_by_step_and_source(journal):
    journal.record("began", by="operator")
    journal.record("staged", "files.uploads", entries=3)
    journal.record("staged", "config.settings", entries=4)
    assert [(entry.step, entry.source) for entry in journal.everything()] == [
        ("began", ""), ("staged", "files.uploads"), ("staged", "config.settings"),
    ]  # fmt: skip
    assert [entry.facts["entries"] for entry in journal.entries("staged")] == [3, 4]
    assert [entry.facts["entries"] for entry in journal.entries("staged", "config.settings")] == [4]
    assert journal.last("staged").source == "config.settings"
    assert journal.last("switched") is None
    times = [entry.time for entry in journal.everything()]
    assert times == sorted(times)
    assert all(time.tzinfo for time in times)


def test_journal_entry_is_visible_at_once_to_another_journal_object(journal, tmp_path):
    journal.record("one")
    assert Journal(tmp_path / "journal.jsonl").entries("one")


def test_closed_journal_refuses_further_steps(journal):
    journal.record("closed", reason="")
    assert journal.closed
    with pytest.raises(RestoreError, match="has ended"):
        journal.record("switching", "postgres.main")
    assert [entry.step for entry in journal.everything()] == ["closed"]


def test_journal_keeps_line_breaks_and_surrogates_in_facts(journal):
    odd = "line\nbreak \u2028 \x85 \udcff ☃"
    journal.record("odd", name=odd)
    journal.record("next")
    assert [entry.step for entry in journal.everything()] == ["odd", "next"]
    assert journal.entries("odd")[0].facts["name"] == odd


@pytest.mark.parametrize("cut", [1, 10, 40, -1])
def test_journal_ignores_a_line_that_a_kill_cut_off(journal, tmp_path, cut):
    journal.record("one")
    path = tmp_path / "journal.jsonl"
    line = path.read_bytes().replace(b'"one"', b'"two"')
    path.write_bytes(path.read_bytes() + line[: cut if cut > 0 else -2])
    assert [entry.step for entry in journal.everything()] == ["one"]
    journal.record("three")
    assert [entry.step for entry in journal.everything()] == ["one", "three"]


def test_journal_loses_no_entry_of_concurrent_processes(journal, tmp_path):
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            for number in range(25):
                journal.record("said", str(child), number=number, padding="x" * 5000)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    for child in range(4):
        assert [entry.facts["number"] for entry in journal.entries("said", str(child))] == list(range(25))
    assert all(json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines())


def test_journal_is_private_to_its_owner(journal, tmp_path):
    journal.record("one")
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("line", [b"[" * 200_000, b"9" * 100_000, b"\xff\xfe", b'{"time": NaN}', b'{"time": 1, "time": 2}', b"\0\0\0"])
def test_journal_passes_over_a_line_that_is_not_json(journal, tmp_path, line):
    journal.record("one")
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(line + b"\n")
    journal.record("two")
    assert [entry.step for entry in journal.everything()] == ["one", "two"]


@pytest.mark.parametrize("line", [b"[]", b"1", b"null", b"{}", b'{"time": "noon", "step": "a", "source": "", "facts": {}}', b'{"time": 1}'])
def test_journal_with_a_line_that_is_no_entry_is_refused_in_words(journal, tmp_path, line):
    journal.record("one")
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(line + b"\n")
    for use in (lambda: list(journal.everything()), lambda: journal.record("two"), lambda: journal.closed):
        with pytest.raises(RestoreError, match=r"journal\.jsonl has a line that is no entry of a journal .*: somebody changed it"):
            use()
