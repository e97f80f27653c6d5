"""An Engine of the tests' own: it leaves the machine's network as it was, ends with who started it, and says why there is none.

Each one runs in a network namespace, whose firewall is that of this test alone, and with an empty cache.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from sandbox.containers import engine

PROJECT = Path(__file__).parent.parent.parent
NEEDED = ("dockerd", "iptables", "ip", "unshare", "setpriv")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, NEEDED)),
    reason="only root has an Engine of its own, and only where dockerd is installed",
)

BEGIN = '''
import json, os, runpy, shlex, socket, subprocess, sys
from pathlib import Path
from sandbox.containers import engine, network
from sandbox.containers.errors import EngineError

engine._SYSTEM_SOCKET = Path("/nowhere/docker.sock")

def do(*lines):
    for line in lines:
        subprocess.run(shlex.split(line), check=True)

def listed(*argv):
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()

def state():
    tables = {table: listed("iptables", "-t", table, "-S") for table in ("nat", "filter")}
    return {**tables, "links": sorted(name for _, name in socket.if_nameindex()), "forwarding": network._FORWARDING.read_text()}

def begin():
    """A new namespace forwards packets if the machine's settings say so."""
    do("ip link set lo up")
    network._FORWARDING.write_text("0")
    return state()
'''
"""What a script in a namespace begins with."""
MAIN = 'runpy.run_module("sandbox.containers", run_name="__main__")\n'


APART = ["unshare", "--net", "--mount"]


@pytest.fixture
def folder():
    """One with a short path: those of sockets may have no more than 107 characters."""
    with tempfile.TemporaryDirectory(prefix="own-") as folder:
        yield Path(folder)


def environment(folder, **more):
    inherited = {name: value for name, value in os.environ.items() if name != "DOCKER_HOST"}
    paths = {"PYTHONPATH": f"{PROJECT / 'include'}:{PROJECT}", "XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    return {**inherited, **paths, **more}


def run(folder, script, *, prefix=(), **more):
    argv = [*APART, *prefix, sys.executable, "-c", BEGIN + script]
    return subprocess.run(argv, cwd=PROJECT, env=environment(folder, **more), capture_output=True, text=True, check=False, timeout=120)


def states(done):
    assert done.returncode == 0, done.stderr
    return map(json.loads, done.stdout.splitlines())


def test_own_engine_leaves_the_network_as_others_have_it_by_then(folder):
    """Before and while it runs, somebody else changes the firewall, with comments of several words that name Docker, too."""
    script = """
begin()
do("iptables -A INPUT -s 192.0.2.1 -m comment --comment 'of before: docker0' -j ACCEPT")
before = state()
with engine.Engine() as own:
    own.docker("network", "create", "one")
    own.docker("network", "create", "--opt", "com.docker.network.bridge.name=two", "two")
    meanwhile = state()
    do(
        "iptables -N OFFICE",
        "iptables -A OFFICE -i docker0 -m comment --comment 'not of Docker' -j ACCEPT",
        "iptables -A INPUT -i docker0 -j OFFICE",
        "iptables -A FORWARD -s 192.0.2.2 -m comment --comment \\"the office's; -o docker0 -j DOCKER\\" -j DROP",
        "iptables -A FORWARD -o two -m comment --comment 'a bridge \\"that goes\\"' -j DROP",
        "iptables -A FORWARD -i two -m comment --comment \\"somebody's\\" -j DROP",
        "iptables -t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
        "iptables -P INPUT DROP",
        "ip link add br-0ff1ce0ff1ce type bridge",
    )
print(json.dumps(before), json.dumps(meanwhile), json.dumps(state()), sep="\\n")
"""
    before, meanwhile, after = states(run(folder, script))
    made = set(meanwhile["links"]) - set(before["links"])
    assert {re.sub("[0-9a-f]{12}", "…", name) for name in made} == {"docker0", "br-…", "two"}
    assert (before["forwarding"], meanwhile["forwarding"]) == ("0\n", "1\n")
    assert "-P FORWARD DROP" in meanwhile["filter"]
    assert after.pop("nat") == [*before.pop("nat"), "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE"]
    assert after.pop("filter") == [
        "-P INPUT DROP",
        *before["filter"][1:-1],
        "-N OFFICE",
        before.pop("filter")[-1],
        "-A INPUT -i docker0 -j OFFICE",
        r"""-A FORWARD -s 192.0.2.2/32 -m comment --comment "the office\'s; -o docker0 -j DOCKER" -j DROP""",
        '-A OFFICE -i docker0 -m comment --comment "not of Docker" -j ACCEPT',
    ]
    assert after == {"links": ["br-0ff1ce0ff1ce", *before["links"]], "forwarding": "0\n"}


def test_own_engine_tells_what_it_could_not_take_back_and_takes_the_rest_back(folder):
    script = """
before = begin()
try:
    with engine.Engine() as own:
        do("iptables -N OFFICE", "iptables -A OFFICE -j DOCKER")
except EngineError as error:
    print(json.dumps(str(error)))
print(json.dumps(before), json.dumps(state()), sep="\\n")
"""
    said, before, after = states(run(folder, script))
    assert re.search(r"still there in part:\niptables -w -t filter -X DOCKER failed with exit status \d: .+$", said)
    assert after.pop("filter") == [*before.pop("filter"), "-N DOCKER", "-N OFFICE", "-A OFFICE -j DOCKER"]
    assert after == before


DEAF = """trap '' TERM
while [ "$1" != --host ]; do shift; done
touch "${2#unix://}"
while true; do sleep 1; done
"""
"""A dockerd that does not heed the signal to end."""


@pytest.mark.parametrize(("number", "deaf"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_own_engine_that_is_starting_ends_with_who_waits_for_it(folder, number, deaf):
    script = (
        f"engine._ENDS_WITHIN = {2 if deaf else engine._ENDS_WITHIN}"
        + """
engine.Engine._answers = lambda self: Path("@").touch()
before = begin()
try:
    runpy.run_module("sandbox.containers", run_name="__main__")
finally:
    print(json.dumps(before), json.dumps(state()), sep="\\n")
"""
    )
    script = script.replace("@", str(folder / "waits"))
    more = {"PATH": f"{program(folder, 'dockerd', DEAF)}:{os.environ['PATH']}"} if deaf else {}
    argv, environ = [*APART, sys.executable, "-c", BEGIN + script], environment(folder, **more)
    with subprocess.Popen(argv, cwd=PROJECT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as waiting:
        dockerd = child_of(waiting.pid, "dockerd")
        wait_until(lambda: (folder / "waits").exists() and list(folder.glob("recovery-engine-*/docker.sock")))
        waiting.send_signal(number)
        out, said = waiting.communicate(timeout=120)
    assert waiting.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[number], said
    with suppress(ProcessLookupError):
        os.kill(dockerd, signal.SIGTERM)
        raise AssertionError("dockerd ran on")
    assert list(folder.glob("recovery-engine-*")) == []
    before, after = map(json.loads, out.splitlines())
    assert {**after, "links": before["links"]} == before


def test_own_engine_ends_with_a_process_that_is_killed(folder):
    script = "begin()\nwith engine.Engine():\n    print('it runs', flush=True)\n    sys.stdin.read()"
    argv = [*APART, sys.executable, "-c", BEGIN + script]
    with subprocess.Popen(argv, cwd=PROJECT, env=environment(folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout.readline() == b"it runs\n"
        dockerd = child_of(running.pid, "dockerd")
        running.kill()
    wait_until(lambda: not Path(f"/proc/{dockerd}").exists())


def child_of(pid, name):
    """The process id of a child, once it runs a program of that name."""
    found = []

    def look():
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        found[:] = [int(child) for child in children if Path(f"/proc/{child}/comm").read_text().strip() == name]
        return found

    wait_until(look)
    return found[0]


def wait_until(reached):
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("lost", ["net_admin", "sys_admin"])
def test_root_whom_the_kernel_forbids_an_engine_gets_the_status_for_that(folder, lost):
    done = run(folder, MAIN, prefix=["setpriv", f"--bounding-set=-{lost}", f"--inh-caps=-{lost}"])
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("no tests with containers: dockerd needs ")


def test_person_who_may_not_start_an_engine_gets_the_status_for_that(folder):
    done = run(folder, f"os.geteuid = lambda: 1000\n{MAIN}")
    assert done.returncode == 3
    assert "no Docker Engine answers, and only root can start one. Start Docker, or set DOCKER_HOST." in done.stderr


@pytest.mark.parametrize("status", [1, 3])
def test_status_of_a_set_up_that_failed_is_kept(folder, status):
    done = run(folder, MAIN, PATH=f"{program(folder, 'python3', f'exit {status}')}:{os.environ['PATH']}")
    assert done.returncode == status


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("dockerd", "echo 'unknown flag: --exec-root' >&2; exit 1", "dockerd ended: unknown flag"),
        ("dockerd", "echo 'failed to start daemon: no space left on device' >&2; exit 1", "dockerd ended: failed to start"),
        ("dockerd", "echo 'permission denied' >&2; echo 'panic: at the disco' >&2; exit 2", "dockerd ended: permission denied panic"),
        ("ip", f'[ $2 = delete ] && exit 7; exec {shutil.which("ip")} "$@"', "ip link delete docker0 failed with exit status 7"),
    ],
)
def test_engine_that_should_run_and_does_not_is_a_failure(folder, name, text, words):
    done = run(folder, MAIN, PATH=f"{program(folder, name, text)}:{os.environ['PATH']}")
    assert done.returncode == 1, done.stderr
    assert words in done.stderr
    assert list(folder.glob("recovery-engine-*")) == []


def test_engine_of_the_environment_that_does_not_answer_is_a_failure(folder):
    done = run(folder, MAIN, DOCKER_HOST=f"unix://{folder}/docker.sock")
    assert done.returncode == 1
    assert f"no Docker Engine answers at DOCKER_HOST=unix://{folder}/docker.sock. Start it, or unset DOCKER_HOST." in done.stderr


def test_own_engine_ends_even_if_it_can_not_say_which_bridges_it_has(folder):
    real, ended = shutil.which("docker"), folder / "ended"
    fake = program(folder, "docker", f'case "$*" in "network inspect"*) echo broken >&2; exit 5 ;; esac; exec {real} "$@"')
    script = f"""
before = begin()
try:
    runpy.run_module("sandbox.containers", run_name="__main__")
finally:
    Path("{ended}").write_text(json.dumps([before, state()]))
"""
    done = run(folder, script, PATH=f"{fake}:{os.environ['PATH']}")
    assert (done.returncode, done.stderr.rpartition("status ")[2]) == (1, "5: broken\n")
    before, after = json.loads(ended.read_text())
    assert after == before
    assert list(folder.glob("recovery-engine-*")) == []


def test_crash_is_a_failure(folder):
    done = run(folder, MAIN, XDG_CACHE_HOME="/dev/null")
    assert done.returncode == 1
    assert "NotADirectoryError" in done.stderr


def program(folder, name, text):
    """A folder with a program that is found before another one of its name."""
    made = folder / "bin" / name
    made.parent.mkdir()
    made.write_text(f"#!/bin/sh\n{text}\n")
    made.chmod(0o755)
    return made.parent
