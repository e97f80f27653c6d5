"""What .ci/run makes of the set-up for tests with containers, with stand-ins for make and for that set-up."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent


@pytest.fixture
def ci(tmp_path):
    """Runs it in a folder of its own: its exit status, the targets of make that it ran, and what it said."""
    for name in ("bin/make", "bin/uv", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('#!/bin/sh\necho "ran $*"\n[ "$*" != "-m sandbox.containers" ] || exit "$ENGINE"\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / ".ci").mkdir()
    shutil.copy(PROJECT / ".ci/run", tmp_path / ".ci/run")

    def run(engine):
        environ = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "ENGINE": str(engine)}
        done = subprocess.run([tmp_path / ".ci/run"], env=environ, capture_output=True, text=True, check=False)
        return done.returncode, [line for line in done.stdout.splitlines() if line.startswith("ran ")], done.stdout + done.stderr

    return run


ALWAYS = ["ran lint", "ran test", "ran -m sandbox.containers"]


def test_ci_runs_tests_with_containers_where_an_engine_runs(ci):
    assert ci(0)[:2] == (0, [*ALWAYS, "ran test-docker"])


def test_ci_says_that_tests_with_containers_were_not_run_where_no_engine_is_possible(ci):
    status, ran, said = ci(3)
    assert (status, ran) == (0, ALWAYS)
    assert "NOT RUN: make test-docker" in said


@pytest.mark.parametrize("engine", [1, 2, 100, 143])
def test_ci_fails_if_the_set_up_of_an_engine_fails(ci, engine):
    status, ran, said = ci(engine)
    assert (status, ran) == (1, ALWAYS)
    assert f"FAILED: python -m sandbox.containers, with exit status {engine}" in said
