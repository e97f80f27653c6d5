"""What this worker's runner has beside the contract, which `test_base.py` has."""

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


def test_killed_tool_is_said_so():
    with pytest.raises(ToolError, match="killed by signal 9"), LOCAL.tool(["sleep", "60"]) as sleeper:
        os.kill(sleeper.pid, signal.SIGKILL)


def test_may_fail_leaves_the_status_to_the_caller():
    with LOCAL.tool(["sh", "-c", "exit 2"], may_fail=True) as running:
        assert running.wait() == 2
        assert running.wait() == 2


def test_feeding_a_tool_closes_its_input_at_the_end(tmp_path):
    with LOCAL.tool(["sh", "-c", f"cat > {tmp_path}/fed"], feed=True) as cat:
        cat.stdin.write(b"all of it")
    assert (tmp_path / "fed").read_bytes() == b"all of it"


def test_an_exception_after_the_tools_end_ends_its_children_too():
    with suppress(KeyError), LOCAL.tool(["sh", "-c", "sleep 600 & echo $!"], output=True) as running:
        child = int(running.stdout.readline())
        gone(running.pid)
        raise KeyError
    gone(child)


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
