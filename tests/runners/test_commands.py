import logging
import os
import sys
from datetime import timedelta

import pytest

from recovery.common.errors import ToolError
from recovery.plan.services import Services
from recovery.runners.commands import run_all, run_one
from sandbox.servers import wait_for
from tests.support.processes import is_running

PYTHON = sys.executable


def long(seconds=60):
    return timedelta(seconds=seconds)


def services():
    return Services(timeout=long())


def python(code):
    return (PYTHON, "-c", code)


def test_command_outcome_has_the_output_and_the_exit_status():
    outcome = run_one(python("import sys; print('to out', flush=True); print('to err', file=sys.stderr)"), long())
    assert (outcome.ok, outcome.words) == (True, "to out\nto err")
    outcome = run_one(python("print('why'); raise SystemExit(3)"), long())
    assert (outcome.ok, outcome.words) == (False, "why")
    assert run_one(("true",), long()).words == "exit status 0, no output"
    assert "exit status 3" in run_one(python("raise SystemExit(3)"), long()).words


def test_command_arguments_are_not_logged(caplog):
    caplog.set_level(logging.INFO)
    outcome = run_one(("/bin/sh", "-c", "echo said # --password=hush-hush"), long())
    assert (outcome.title, "sh: said" in caplog.text) == ("sh", True)
    assert "hush-hush" not in f"{caplog.text} {outcome}"
    assert run_one(("false",), long(), "what people call it").title == "what people call it"


def test_command_runs_without_a_shell():
    assert run_one(("echo", "$HOME; `id` && false"), long()).words == "$HOME; `id` && false"


def test_command_starts_in_the_root_folder_and_runs_no_program_of_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "sh").write_text("#!/bin/sh\necho planted\n")
    (tmp_path / "sh").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    assert run_one(("sh", "-c", "pwd"), long()).words == "/"


def test_command_with_a_missing_program_fails_with_a_message():
    outcome = run_one(("/nowhere/stop-it",), long())
    assert not outcome.ok
    assert "could not be started" in outcome.words


def test_command_outcome_keeps_only_the_end_of_long_output():
    outcome = run_one(python("print('x' * 10_000_000); print('the end')"), long())
    assert outcome.words.endswith("the end")
    assert len(outcome.words) <= 2000


def test_command_that_exceeds_the_timeout_is_ended_with_its_children(tmp_path):
    script = f"sleep 1000 & echo $! > {tmp_path}/child; echo working; wait"
    outcome = run_one(("sh", "-c", script), long(1))
    assert not outcome.ok
    assert outcome.words.startswith("it did not end within")
    assert outcome.words.endswith("working")
    child = int((tmp_path / "child").read_text())
    wait_for("the child to end", lambda: not is_running(child))


def test_command_returns_while_its_daemon_runs_on_with_open_output(tmp_path):
    """Such as a start script that puts a server into the background."""
    outcome = run_one(("sh", "-c", f"sleep 1000 & echo $! > {tmp_path}/daemon; echo started"), long(900))
    assert (outcome.ok, outcome.words) == (True, "started")
    daemon = int((tmp_path / "daemon").read_text())
    try:
        assert is_running(daemon), "the service that was started must not end with its start command"
    finally:
        os.kill(daemon, 9)


def test_command_ends_when_its_task_is_killed(tmp_path):
    """A stop that runs on after its task was killed would meet the start of the rollback."""
    pid = os.fork()
    if pid == 0:
        run_one(("sh", "-c", f"cd {tmp_path}; echo $$ > new; mv new command; exec sleep 1000"), long(900))
        os._exit(0)
    wait_for("the command to run", lambda: (tmp_path / "command").exists())
    command = int((tmp_path / "command").read_text())
    assert is_running(command)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    wait_for("the command to end with its task", lambda: not is_running(command))


def test_run_all_stops_at_the_first_failed_command(tmp_path):
    commands = [("touch", str(tmp_path / "one")), ("false",), ("touch", str(tmp_path / "three"))]
    with pytest.raises(ToolError, match="false, command 2 of 3, failed"):
        run_all(commands, services())
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
    run_all([], services())
