"""What every runner promises, asked of it by the protocol alone. A new one is added to ``RUNNERS`` and must pass all of it as it is."""

import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from recovery.common.errors import ToolError
from recovery.runners.base import Runner, need_shared_files
from recovery.runners.local import LOCAL
from tests.support.processes import gone
from tests.support.runners import Recording
from tests.support.sets import run_python

RUNNERS = {"recovery.runners.local import LOCAL": LOCAL}


@pytest.fixture(params=RUNNERS)
def imported(request) -> str:
    """What a process of its own imports, and from where."""
    return request.param


@pytest.fixture
def runner(imported) -> Runner:
    return RUNNERS[imported]


# Words, statuses, secrets -------------------------------------------------------------------------------------------------


def test_tool_stderr_is_logged_completely(runner, caplog):
    with caplog.at_level(logging.INFO, "recovery"):
        runner.run(["sh", "-c", "for i in $(seq 500); do echo line $i >&2; done; printf 'no end of line' >&2"])
    assert [record.getMessage() for record in caplog.records] == [*(f"sh: line {number}" for number in range(1, 501)), "sh: no end of line"]


def test_tool_stderr_reaches_on_line_by_lines_with_invalid_bytes_replaced(runner):
    words = []
    with runner.tool(["sh", "-c", r"printf 'one\ntw\377o\nthree' >&2"], on_line=words.append):
        pass
    assert words == ["one", "tw\ufffdo", "three"]


def test_tool_failure_names_exit_status_and_last_lines_and_no_argument(runner):
    with pytest.raises(ToolError) as failed:
        runner.run(["sh", "-c", "for i in $(seq 100); do echo line $i >&2; done; exit 7", "argument"])
    assert "sh failed with exit status 7" in str(failed.value)
    assert "line 100" in str(failed.value)
    assert "line 80\n" not in str(failed.value)
    assert "argument" not in str(failed.value)
    assert failed.value.retryable


@pytest.mark.parametrize(("command", "words"), [("exit 3", "exit status 3"), ("kill -9 $$", "killed by signal 9")])
def test_tool_failure_is_raised_after_all_output_was_read(runner, command, words):
    with pytest.raises(ToolError, match=words), runner.tool(["sh", "-c", f"echo all of it; {command}"], output=True) as tool:
        assert tool.stdout.read() == b"all of it\n"


def test_tool_wait_in_the_block_gives_exit_status_and_last_lines(runner):
    with runner.tool(["sh", "-c", "echo one >&2; echo two >&2"]) as tool:
        assert tool.wait() == 0
        assert list(tool.last_words) == ["one", "two"]


def test_tool_environment_is_neither_logged_nor_in_the_error(runner, caplog):
    with caplog.at_level(logging.DEBUG, "recovery"), pytest.raises(ToolError) as failed:
        runner.run(["sh", "-c", "echo ${#PASSWORD} letters >&2; exit 1"], env={"PASSWORD": "s3cret"})
    assert "6 letters" in str(failed.value)
    assert "s3cret" not in str(failed.value) + caplog.text


# Output -------------------------------------------------------------------------------------------------------------------


def test_run_returns_the_complete_binary_output(runner):
    assert runner.run(["sh", "-c", r"printf 'a\0\377'; printf %s $GREETING"], env={"GREETING": "hello"}) == b"a\0\xffhello"


def test_tool_with_partly_read_output_fails_and_does_not_hang(runner):
    with pytest.raises(ToolError, match="killed by signal 13"), runner.tool(["yes"], output=True) as tool:
        assert tool.stdout.read(4) == b"y\ny\n"


def test_runner_with_shared_files_reads_and_writes_folders_of_the_worker(runner, tmp_path):
    if runner.shares_files:
        for name in ("read", "written"):
            (tmp_path / name).mkdir()
        (tmp_path / "read" / "in").write_text("there")
        out = tmp_path / "written" / "out"
        runner.run(["cp", tmp_path / "read" / "in", os.fsencode(out)], reads=tmp_path / "read", writes=tmp_path / "written")
        assert out.read_text() == "there"
        need_shared_files(runner, "Tools")


def test_need_shared_files_refuses_a_runner_without_shared_files():
    with pytest.raises(ToolError, match="These tools read and write files in this worker's folders") as refused:
        need_shared_files(Recording(shares_files=False), "These tools")
    assert not refused.value.retryable


# Finding tools ------------------------------------------------------------------------------------------------------------


def test_missing_tool_error_names_the_searched_folders(runner, tmp_path):
    with pytest.raises(ToolError, match=f"no-such-tool is not installed; looked in {tmp_path}, "):
        runner.find_tool("no-such-tool", [tmp_path])
    with pytest.raises(ToolError, match="could not be started"), runner.tool([tmp_path / "no-such-tool"]):
        pass
    with pytest.raises(ToolError, match="no-such-tool could not be started"):
        runner.version(tmp_path / "no-such-tool")


def test_find_tool_takes_the_first_executable_file_of_the_folders(runner, tmp_path):
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sh").touch(mode)
    (tmp_path / "d" / "sh").mkdir(parents=True)
    folders = [tmp_path / name for name in ("d", "a", "b", "c")]
    assert [runner.has(folder / "sh") for folder in folders] == [False, False, True, True]
    assert runner.find_tool("sh", folders) == str(tmp_path / "b" / "sh")
    assert runner.find_tool("sh", [tmp_path / "none"]).endswith("/sh")


def test_places_are_folders_then_installed_newest_first_then_search_path(runner, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f":.:/usr/bin:bin:{tmp_path}/named:/bin:")
    for version in (9, 17, 18):
        (tmp_path / f"pg [1]-{version}" / "bin").mkdir(parents=True)
    found = runner.places([tmp_path / "named", tmp_path / "pg*"], [f"{tmp_path}/*-1?/bin", f"{tmp_path}/nothing/*"])
    installed = [tmp_path / f"pg [1]-{version}" / "bin" for version in (18, 17)]
    assert list(map(str, found)) == [f"{tmp_path}/named", f"{tmp_path}/pg*", *map(str, installed), "/usr/bin", "/bin"]


def test_tools_start_in_the_root_folder_and_none_of_the_working_folder_is_found(runner, tmp_path, monkeypatch):
    for name in ("sh", "planted"):
        (tmp_path / name).write_text("#!/bin/sh\necho planted\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}:.")
    assert runner.run(["sh", "-c", "pwd"]) == b"/\n"
    assert Path(runner.find_tool("sh")).is_absolute()
    for find in (lambda: runner.find_tool("planted"), lambda: runner.run(["planted"])):
        with pytest.raises(ToolError, match="planted"):
            find()


def test_version_is_the_first_line_of_the_program_as_installed_now(runner, tmp_path):
    program = tmp_path / "program"
    for number in (1, 2):
        program.write_text(f"#!/bin/sh\necho program version {number}\necho built today\n")
        program.chmod(0o755)
        os.utime(program, (number, number))
        assert runner.version(program) == f"program version {number}"
    program.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(ToolError, match="exit status 1"):
        runner.version(program)


# Nothing is left running --------------------------------------------------------------------------------------------------


def test_exception_in_the_block_ends_tool_and_children(runner):
    with suppress(KeyError), runner.tool(["sh", "-c", "sleep 60 & echo $$ $!; wait"], output=True) as tool:
        pids = list(map(int, tool.stdout.readline().split()))
        raise KeyError
    for pid in pids:
        gone(pid)


def test_children_left_by_a_tool_end_with_the_tool(runner):
    """They hold its stderr open: waiting for its last words would last as long as they do."""
    with runner.tool(["sh", "-c", "sleep 600 & echo $!"], output=True) as tool:
        child = int(tool.stdout.readline())
    gone(child)


def test_kill_of_the_task_leaves_no_tool_running(imported):
    code = f"""
        import os, signal
        from {imported} as runner
        with runner.tool(["sh", "-c", "echo $$; exec sleep 600"], output=True) as tool:
            print(tool.stdout.readline().decode(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_python(code)
    assert done.returncode == -signal.SIGKILL
    gone(int(done.stdout))
