"""What this worker's runner has beside the contract, which `test_base.py` has."""

import gc
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from recovery.common.errors import ToolError
from recovery.runners.local import LOCAL
from tests.support.processes import gone


def test_killed_tool_is_an_error_that_names_the_signal():
    with pytest.raises(ToolError, match="killed by signal 9"), LOCAL.tool(["sleep", "60"]) as sleeper:
        os.kill(sleeper.pid, signal.SIGKILL)


def test_tool_with_may_fail_returns_its_exit_status_without_error():
    with LOCAL.tool(["sh", "-c", "exit 2"], may_fail=True) as running:
        assert running.wait() == 2
        assert running.wait() == 2


def test_tool_with_feed_gets_end_of_input_when_the_block_ends(tmp_path):
    with LOCAL.tool(["sh", "-c", f"cat > {tmp_path}/fed"], feed=True) as cat:
        cat.stdin.write(b"all of it")
    assert (tmp_path / "fed").read_bytes() == b"all of it"


def test_children_of_an_ended_tool_end_after_an_exception():
    with suppress(KeyError), LOCAL.tool(["sh", "-c", "sleep 600 & echo $!"], output=True) as running:
        child = int(running.stdout.readline())
        gone(running.pid)
        raise KeyError
    gone(child)


def test_local_runner_leaks_no_open_files():
    gc.collect()  # what other tests left open is not this one's
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        LOCAL.run(["true"])
        with pytest.raises(ToolError):
            LOCAL.run(["false"])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_tool_runs_in_a_session_of_its_own():
    """Ctrl-C in the demo ends Python, which then ends them in order; they are in a session of their own."""
    with LOCAL.tool(["sleep", "60"], may_fail=True) as running:
        assert os.getsid(running.pid) == running.pid != os.getsid(0)
        running.kill()


def test_tool_wait_returns_when_another_process_kills_the_tool():
    with LOCAL.tool(["sleep", "60"], may_fail=True) as running:
        killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.2); os.kill({running.pid}, 9)"])
        assert running.wait() == -signal.SIGKILL
        killer.wait()
