import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from recovery.common.errors import ToolError
from recovery.runners.local import LOCAL
from sandbox.servers import wait_for
from tests.support.processes import is_running
from tests.support.sets import run_python


def gone(pid: int) -> None:
    wait_for(f"process {pid} to end", lambda: not is_running(pid), 10)


def test_output_and_exit_status():
    assert LOCAL.run(["sh", "-c", 'printf %s "$GREETING"'], env={"GREETING": "hello"}) == b"hello"


def test_failure_has_status_and_last_words_and_no_argument():
    with pytest.raises(ToolError) as failed:
        LOCAL.run(["sh", "-c", "for i in $(seq 100); do echo line $i >&2; done; exit 7", "argument"])
    assert "sh failed with exit status 7" in str(failed.value)
    assert "line 100" in str(failed.value)
    assert "line 80\n" not in str(failed.value)
    assert "argument" not in str(failed.value)
    assert failed.value.retryable


def test_killed_tool_is_said_so():
    with pytest.raises(ToolError, match="killed by signal 9"), LOCAL.tool(["sleep", "60"]) as sleeper:
        os.kill(sleeper.pid, signal.SIGKILL)


def test_missing_tool_names_the_places(tmp_path):
    with pytest.raises(ToolError, match=f"no-such-tool is not installed; looked in {tmp_path}, "):
        LOCAL.find_tool("no-such-tool", [tmp_path])
    with pytest.raises(ToolError, match="could not be started"), LOCAL.tool([tmp_path / "no-such-tool"]):
        pass


def test_tool_is_found_first_in_the_folders_and_only_if_it_may_run(tmp_path):
    for name, mode in (("a", 0o644), ("b", 0o755), ("c", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sh").touch(mode)
    (tmp_path / "d" / "sh").mkdir(parents=True)
    folders = [tmp_path / name for name in ("d", "b", "c")]
    assert LOCAL.find_tool("sh", folders) == str(tmp_path / "b" / "sh")
    assert LOCAL.find_tool("sh", [tmp_path / "none"]).endswith("/sh")


def test_may_fail_leaves_the_status_to_the_caller():
    with LOCAL.tool(["sh", "-c", "exit 2"], may_fail=True) as running:
        assert running.wait() == 2
        assert running.wait() == 2


def test_words_go_to_the_caller_line_by_line_and_bad_bytes_do_no_harm():
    words = []
    with LOCAL.tool(["sh", "-c", r"printf 'one\ntw\377o\nthree' >&2"], on_line=words.append):
        pass
    assert words == ["one", "tw\ufffdo", "three"]


def test_feeding_a_tool_closes_its_input_at_the_end(tmp_path):
    with LOCAL.tool(["sh", "-c", f"cat > {tmp_path}/fed"], feed=True) as cat:
        cat.stdin.write(b"all of it")
    assert (tmp_path / "fed").read_bytes() == b"all of it"


def test_an_exception_in_the_block_ends_tool_and_children():
    with suppress(KeyError), LOCAL.tool(["sh", "-c", "sleep 60 & echo $!; wait"], output=True) as running:
        child = int(running.stdout.readline())
        raise KeyError
    gone(running.pid)
    gone(child)


def test_children_that_a_tool_leaves_behind_end_with_it():
    """They hold its stderr open: waiting for its last words would last as long as they do."""
    with LOCAL.tool(["sh", "-c", "sleep 600 & echo $!"], output=True) as running:
        child = int(running.stdout.readline())
    gone(child)


def test_an_exception_after_the_tools_end_ends_its_children_too():
    with suppress(KeyError), LOCAL.tool(["sh", "-c", "sleep 600 & echo $!"], output=True) as running:
        child = int(running.stdout.readline())
        gone(running.pid)
        raise KeyError
    gone(child)


def test_a_tool_whose_output_nobody_reads_on_fails_and_does_not_hang():
    with pytest.raises(ToolError, match="killed by signal 13"), LOCAL.tool(["yes"], output=True) as running:
        running.stdout.read(10)


def test_tools_die_with_this_process():
    code = """
        import os, signal
        from recovery.runners.local import LOCAL
        with LOCAL.tool(["sh", "-c", "echo $$; exec sleep 600"], output=True) as running:
            print(running.stdout.readline().decode(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_python(code)
    assert done.returncode == -signal.SIGKILL
    gone(int(done.stdout))


def test_open_files_do_not_pile_up():
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        LOCAL.run(["true"])
        with pytest.raises(ToolError):
            LOCAL.run(["false"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_signals_of_a_terminal_do_not_reach_tools():
    """Ctrl-C in the demo ends Python, which then ends them in order; they are in a session of their own."""
    with LOCAL.tool(["sleep", "60"], may_fail=True) as running:
        assert os.getsid(running.pid) == running.pid != os.getsid(0)
        running.kill()


def test_a_waiting_block_ends_when_the_tool_is_killed_by_somebody_else():
    with LOCAL.tool(["sleep", "60"], may_fail=True) as running:
        killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.2); os.kill({running.pid}, 9)"])
        assert running.wait() == -signal.SIGKILL
        killer.wait()
