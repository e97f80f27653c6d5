import json
import subprocess
from pathlib import Path

import pytest
import yaml

import recovery
from recovery.cli.main import main
from recovery.common.connections import Endpoint
from recovery.crypto.recipients import parse_identity
from recovery.crypto.signing import SigningKey
from tests.support.processes import RECOVERY

ROOT = Path(recovery.__file__).parents[2]


def plan(name="shop", **changes):
    return {
        "plan": name,
        "sources": {"config": {"settings": {"paths": ["/srv/shop/.env"]}}},
        "encryption": {
            "recipients": ["age1nnjcqrj0sl39dhm43fzasn7eg5zv4a50xqjum0jv2hyhstqt59gs9nnx8y"],
            "identity": "shop_backup_identity",
        },
        "signing": "shop_backup_signing",
        "destinations": {"local": {"folder": "/var/backups/shop", "keep_last": 7}},
        "approvals": {"approvers": [{"id": "alice", "name": "Alice"}]},
    } | changes


@pytest.fixture
def plans(tmp_path):
    folder = tmp_path / "plans"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_text(yaml.safe_dump(content))
        return folder

    return write


def test_keys_create_prints_the_next_steps_and_no_secret(tmp_path, capsys):
    assert main(["keys", "create", "--out", str(tmp_path / "kit"), "--id-prefix", "shop"]) == 0
    printed = capsys.readouterr()
    identity = parse_identity(Endpoint("x", password=(tmp_path / "kit/identity.txt").read_text()))
    signing = SigningKey.from_endpoint(Endpoint("x", password=(tmp_path / "kit/signing.pem").read_text()))
    assert f"recipients: [{identity.to_public()}]" in printed.out
    assert f"airflow connections import {tmp_path / 'kit/connections.json'}" in printed.out
    assert signing.verify_key.fingerprint in printed.out
    for secret in (str(identity), signing.line):
        assert secret not in printed.out + printed.err


def test_keys_create_prints_lines_that_make_a_valid_plan(tmp_path, capsys, plans):
    main(["keys", "create", "--out", str(tmp_path / "kit"), "--id-prefix", "shop"])
    lines = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.strip() == "encryption:")
    assert main(["plans", "check", str(plans("shop.yaml", plan() | yaml.safe_load("\n".join(lines[start : start + 4]))))]) == 0


def test_keys_create_refuses_to_overwrite_a_kit(tmp_path, capsys):
    arguments = ["keys", "create", "--out", str(tmp_path)]
    assert main(arguments) == 0
    before = (tmp_path / "identity.txt").read_bytes()
    assert main(arguments) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert (tmp_path / "identity.txt").read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "create", "--out", "/dev/null/kit"],
        ["keys", "create"],
        ["keys", "create", "--out", "x", "--id-prefix", "a b"],
        ["keys"],
        [],
        ["plans", "check", "/nowhere"],
        ["sets"],
    ],
)
def test_cli_user_error_gives_a_message_and_exit_status_2(arguments, tmp_path):
    ended = subprocess.run([RECOVERY, *arguments], check=False, capture_output=True, text=True, cwd=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr.strip()
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_plans_check_reports_every_error_of_every_file(plans, capsys):
    plans("good.yaml", plan())
    plans("bad.yaml", plan("bad", signing=None, destinations={}))
    folder = plans("worse.yaml", ["not a plan"])
    assert main(["plans", "check", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "plan shop: valid, with" in printed.out
    for words in ("bad.yaml: signing", "bad.yaml: destinations", "worse.yaml:"):
        assert words in printed.err


def test_plans_check_of_an_empty_folder_ends_with_exit_status_1(tmp_path, capsys):
    assert main(["plans", "check", str(tmp_path)]) == 1
    assert "no plan file" in capsys.readouterr().err


def test_plans_schema_accepts_a_valid_plan_and_rejects_an_unknown_key(capsys):
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["plans", "schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.validate(plan(), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(plan(surprise=1), schema)


def test_cli_version_equals_the_project_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.strip() == recovery.VERSION
