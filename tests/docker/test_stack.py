"""How docker-compose.yaml is started for a test or a demo: with the commands of the documentation, and without a trace on the Engine."""

import json
import os
import re
import shlex
from pathlib import Path

import pytest

from sandbox.containers.engine import Engine
from sandbox.containers.stack import Stack
from sandbox.containers.stand_ins import BASE

PROJECT = Path(__file__).parent.parent.parent

COMPOSE = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
here = Path(sys.argv[0]).parent
with (here / "asked").open("a") as asked:
    asked.write(json.dumps(sys.argv[1:]) + "\\n")
if "run" in sys.argv:
    assert (here / "plans" / "openmanus.yaml").exists()  # Docker makes what is not there for root
if "create" in sys.argv:
    kit = here / "kit" / "openmanus"
    kit.mkdir()
    (kit / "identity.txt").write_text("# public key: age1xyz\\n")
    (kit / "connections.json").write_text(json.dumps({"key": {"password": "secret key"}}))
if "import" in sys.argv:
    (here / f"imported {len(list(here.glob('imported *')))}").write_text((here / "kit" / "openmanus" / "connections.json").read_text())
"""
"""Stands for Compose: it writes down what it is asked for, and makes what comes of it."""


@pytest.fixture
def stack(tmp_path):
    (tmp_path / "compose").write_text(COMPOSE)
    (tmp_path / "compose").chmod(0o755)
    return Stack(Engine(), [tmp_path / "compose"], tmp_path, {"RECOVERY_IMAGE": "one"})


def asked(stack):
    """What Compose was asked for, without what every command has."""
    lines = [json.loads(line) for line in (stack.folder / "asked").read_text().splitlines()]
    return [line[line.index(str(stack.folder / "override.yaml")) + 1 :] for line in lines]


def documented(stack, words):
    """The arguments of the command of docs/deployment.md that has such words, for this person and folder."""
    blocks = re.findall(r"```sh\n(.+?)```", (PROJECT / "docs/deployment.md").read_text(), re.DOTALL)
    commands = [command for block in blocks for command in block.replace("\\\n", " ").splitlines() if words in command]
    assert len(commands) == 1
    command = commands[0].replace("$(id -u)", str(os.getuid())).replace("$PWD", str(stack.folder)).partition(" && ")[0]
    assert command.startswith("docker compose run ")
    return shlex.split(command)[2:]


def test_stack_makes_keys_and_imports_connections_with_the_documented_commands(stack):
    stack.start()
    assert (stack.folder / ".env").stat().st_mode & 0o777 == 0o600
    stack.import_connections()
    assert documented(stack, "keys create") in asked(stack)
    assert [line for line in asked(stack) if "import" in line] == [documented(stack, "connections import")] * 2
    keys, servers = (json.loads((stack.folder / f"imported {number}").read_text()) for number in (0, 1))
    assert stack.private_keys == {"key": "secret key"} == {name: fields["password"] for name, fields in keys.items()}
    assert {fields["password"] for fields in servers.values()} == {stack.secrets["SAMPLE_PASSWORD"]}
    assert [path.name for path in (stack.kit / "openmanus").iterdir()] == ["identity.txt"]


def test_stack_of_somebody_who_is_not_root_gives_no_file_away(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 1234)
    monkeypatch.setattr(os, "chown", None)
    (tmp_path / "compose").write_text(COMPOSE)
    (tmp_path / "compose").chmod(0o755)
    stack = Stack(Engine(), [tmp_path / "compose"], tmp_path, {"RECOVERY_IMAGE": "one"}).start()
    assert "RECOVERY_UID=1234\n" in (tmp_path / ".env").read_text()
    assert "1234:0" in next(line for line in asked(stack) if "create" in line)


@pytest.mark.usefixtures("engine")
def test_stack_removes_the_image_that_was_built_for_it_and_no_other(docker_engine, stack, tmp_path):
    def images():
        return set(docker_engine.docker("images", "--format", "{{.Repository}}:{{.Tag}}").split())

    own = Stack(docker_engine, [tmp_path / "compose"], tmp_path)
    own.start()
    settings = dict(line.split("=", 1) for line in (tmp_path / ".env").read_text().splitlines())
    assert ["build", "init"] in asked(own)
    docker_engine.docker("tag", BASE, settings["RECOVERY_IMAGE"])
    assert settings["RECOVERY_IMAGE"] in images()
    own.stop()
    assert settings["RECOVERY_IMAGE"] not in images()
    assert BASE in images()
    own.stop()  # once more does no harm


@pytest.mark.usefixtures("engine")
def test_image_gives_its_user_the_name_that_initdb_wants(docker_engine, stand_ins):
    image = stand_ins.recovery()
    made = "initdb=$(ls /usr/lib/postgresql/*/bin/initdb); $initdb -D /tmp/made -U postgres --no-sync >&2; id -un; id -g"
    assert docker_engine.docker("run", "--rm", "--entrypoint", "sh", image, "-euc", made).split() == ["airflow", "0"]


@pytest.mark.usefixtures("engine")
def test_logs_of_a_container_have_both_of_its_outputs(docker_engine):
    made = docker_engine.docker("create", BASE, "sh", "-c", "echo one; echo two >&2").strip()
    try:
        docker_engine.docker("start", "--attach", made)
        assert sorted(docker_engine.logs(made).split()) == ["one", "two"]
    finally:
        docker_engine.docker("rm", made)
