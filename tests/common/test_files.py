import multiprocessing
import os
import socket

import pytest
from pydantic import BaseModel

from recovery.common.errors import StagingError
from recovery.common.files import (
    check_space,
    empty_folder,
    is_locked,
    locked,
    read_lists,
    read_record,
    write_atomically,
    write_record,
    written_in,
)
from tests.support.sets import run_python


class Fact(BaseModel):
    number: int


def test_empty_folder_deletes_old_content_and_is_private_to_its_owner(tmp_path):
    folder = tmp_path / "a" / "b"
    assert empty_folder(folder) == folder
    (folder / "sub").mkdir()
    (folder / "sub" / "file").write_text("of an earlier attempt")
    folder.chmod(0o755)
    empty_folder(folder)
    assert (list(folder.iterdir()), folder.stat().st_mode & 0o777) == ([], 0o700)


# Records ------------------------------------------------------------------------------------------------------------


def test_record_is_read_as_written(tmp_path):
    write_record(tmp_path / "fact.json", Fact(number=7))
    assert read_record(tmp_path / "fact.json", Fact) == Fact(number=7)
    assert [path.name for path in tmp_path.iterdir()] == ["fact.json"]


@pytest.mark.parametrize(
    "content",
    ["", "{", '{"number": "x"}', '{"numbers": 7}', "[" * 200_000, '{"number": ' * 200_000, f'{{"number": {"9" * 100_000}}}', "\0"],
)
def test_read_record_fails_on_a_damaged_record(tmp_path, content):
    (tmp_path / "fact.json").write_text(content)
    with pytest.raises(StagingError, match=r"fact\.json is damaged"):
        read_record(tmp_path / "fact.json", Fact)


def test_read_lists_returns_what_follows_a_kind(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert list(read_lists(path, "unit")) == []
    path.write_text('["unit", "a\\udcff", true]\n["folder", {}]\n["unit"]\n')
    assert list(read_lists(path, "unit")) == [["a\udcff", True], []]


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"1", b"null", b"\xff", b"[" * 200_000, b'["unit", ' + b"9" * 100_000 + b"]", b'["unit", NaN]']
)
def test_read_lists_fails_on_a_damaged_line_and_names_it(tmp_path, line):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'["unit"]\n' + line + b"\n")
    with pytest.raises(StagingError, match=r"Line 2 of .*lines\.jsonl is not what was written there"):
        list(read_lists(path, "unit"))


def test_read_record_of_a_missing_file_asks_for_a_shared_staging_folder(tmp_path):
    with pytest.raises(StagingError, match=f"on the worker {socket.gethostname()}.*mount the staging folder that all workers"):
        read_record(tmp_path / "fact.json", Fact)


@pytest.mark.parametrize("at", ["fsync", "rename"])
def test_record_stays_unchanged_when_a_write_is_killed(tmp_path, at):
    write_record(tmp_path / "fact.json", Fact(number=1))
    code = """
        import os, signal, sys
        from pathlib import Path
        from recovery.common.files import write_atomically
        die = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[2] == "fsync":
            os.fsync = die
        else:
            Path.rename = die
        write_atomically(Path(sys.argv[1]), b'{"number": 2}')
    """
    assert run_python(code, tmp_path / "fact.json", at).returncode == -9
    assert read_record(tmp_path / "fact.json", Fact) == Fact(number=1)
    write_atomically(tmp_path / "fact.json", b'{"number": 3}')
    assert read_record(tmp_path / "fact.json", Fact) == Fact(number=3)


# Locks and room -----------------------------------------------------------------------------------------------------


def _count_up(path, lock):
    for _ in range(50):
        with locked(lock):
            path.write_text(str(int(path.read_text()) + 1))


def test_lock_excludes_concurrent_processes(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_count_up, args=(tmp_path / "number", tmp_path / "sub" / "lock")) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert (tmp_path / "number").read_text() == "200"


def test_lock_of_a_killed_process_is_released(tmp_path):
    code = """
        import os, signal, sys
        from pathlib import Path
        from recovery.common.files import locked
        with locked(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, tmp_path / "lock").returncode == -9
    with locked(tmp_path / "lock"):
        pass


def test_is_locked_says_whether_another_process_holds_the_lock(tmp_path):
    lock = tmp_path / "lock"
    assert not is_locked(lock)
    assert not lock.exists()
    context = multiprocessing.get_context("fork")
    held, over = context.Event(), context.Event()

    def hold():
        with locked(lock):
            held.set()
            over.wait(60)

    other = context.Process(target=hold)
    other.start()
    try:
        assert held.wait(60)
        assert is_locked(lock)
        over.set()
        other.join()
        assert not is_locked(lock)
    finally:
        over.set()
        other.join()


def test_check_space_names_the_folder_with_too_little_space(tmp_path):
    check_space(tmp_path, 1, "this")
    with pytest.raises(StagingError, match=rf"{tmp_path} has .* free, but that needs about"):
        check_space(tmp_path, 1 << 60, "that")


def test_written_in_turns_only_disk_errors_into_staging_errors(tmp_path):
    with pytest.raises(StagingError, match=f"{tmp_path} can't be written: No space left"), written_in(tmp_path):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    with pytest.raises(FileNotFoundError), written_in(tmp_path):
        (tmp_path / "none").read_text()
