"""What a worker permits of what keeps a scratch server apart from it; ``tests/targets/test_attacker.py`` attacks the servers."""

import os
import subprocess
from pathlib import Path

import pytest

from recovery.common.errors import RestoreError
from recovery.runners import isolation
from recovery.runners.isolation import isolate
from recovery.runners.processes import User

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may have users of their own")
REFUSAL = "#!/bin/sh\necho $0: not today >&2; exit 3\n"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Puts a program in the place of one of the worker's."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def put(name, text):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    return put


def test_isolate_gives_up_the_network_where_unshare_is_refused_and_names_the_refusal(program):
    complete = isolate()
    program("unshare", REFUSAL)
    found = isolate()
    (lack,) = set(found.lacks) - set(complete.lacks)
    assert lack.startswith("The scratch servers share the worker's network.")
    assert lack.endswith("unshare: not today.")
    assert Path(found.command[0]).name == "setpriv"
    assert "--no-new-privs" in found.command


def test_isolate_refuses_a_worker_that_can_not_take_rights_away(program):
    program("setpriv", REFUSAL)
    with pytest.raises(
        RestoreError, match=r"The rights of a scratch server can't be taken away: .*setpriv: not today\. Next: .*drill\.target"
    ):
        isolate()


@pytest.mark.parametrize("missing", ["setpriv", "unshare"])
def test_isolate_names_a_missing_program_and_its_package(missing, tmp_path, monkeypatch):
    for name in {"setpriv", "unshare", "true"} - {missing}:
        (tmp_path / name).symlink_to(isolation.LOCAL.find_tool(name))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RestoreError, match=rf"{missing} is not installed.*Install util-linux on this worker"):
        isolate()


@ROOT
def test_isolate_gives_each_server_another_user_that_nobody_is(monkeypatch):
    monkeypatch.setattr(isolation, "_UNNAMED", range(64000, 64004))
    monkeypatch.setattr(isolation.pwd, "getpwuid", {64000: "somebody"}.__getitem__)
    with subprocess.Popen(["sleep", "60"], user=64001) as busy:
        first = isolate().user
        second = isolate([first, None]).user
        assert {first, second} == {User("user 64002", 64002, 64002), User("user 64003", 64003, 64003)}
        busy.kill()


@ROOT
def test_isolated_program_runs_as_its_user_without_groups_and_rights():
    found = isolate()
    said = subprocess.run([*found.command, "cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    facts = {name: words.split() for name, _, words in (line.partition(":") for line in said.splitlines())}
    assert facts["Uid"] == facts["Gid"] == [str(found.user.uid)] * 4
    assert (facts["Groups"], facts["NoNewPrivs"], facts["CapEff"], facts["CapPrm"]) == ([], ["1"], ["0" * 16], ["0" * 16])
