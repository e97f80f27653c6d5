"""Somebody who has an Airflow adds this project to it with pip, and a DAG file of two lines."""

import json
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest

from tests.support.processes import plant
from tests.wheel.conftest import PROJECT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DAG_FILE = """\
from recovery.airflow.dags import make_dags
globals().update(make_dags({plans!r}))
"""
PLAN = """\
plan: shop
schedule: null
sources: {{files: {{uploads: {{path: "{home}/uploads"}}}}}}
encryption: {{recipients: [{recipient}], identity: shop_backup_identity}}
signing: shop_backup_signing
destinations: {{local: {{folder: "{home}/backups", keep_last: 3}}}}
approvals: {{approvers: [{{user: alice, name: Alice}}, {{user: bob, name: Bob}}]}}
staging: {{folder: "{home}/staging"}}
"""
KEYS = {"identity": "identity.txt", "signing": "signing.pem"}
ASKED_OF_CONTAINERS = {
    "reach": "Ways().to(DockerContainer(connection='engine', container='shop-db'), connect, 5432, 'socket')",
    "services": "foresee(Services.model_validate({'docker': {'connection': 'engine', 'containers': ['shop']}}), connect)",
}
ASK = """
import sys
from recovery.common.connections import Endpoint
from recovery.common.errors import RecoveryError
from recovery.plan.docker import DockerContainer
from recovery.plan.services import Services
from recovery.runners.ways import Ways
from recovery.runs.services import foresee
connect = dict(engine=Endpoint("engine", "unix://" + sys.executable)).__getitem__  # a file, and no Engine
try:
    ASKED
except RecoveryError as error:
    print(type(error).__name__, error)
"""
FAMILIES = ("backup", "drill", "maintenance", "restore")


@pytest.fixture(scope="module")
def stranger(installed):
    """Keys, a plan of files and a DAG file, made as the documents say."""
    home = installed.home
    for folder in ("uploads", "backups", "staging", "plans"):
        (home / folder).mkdir()
    (home / "uploads/invoice.txt").write_text("42")
    installed.run("recovery", "keys", "create", "--out", home / "kit", "--id-prefix", "shop")
    (recipient,) = [word for word in (home / "kit/identity.txt").read_text().split() if word.startswith("age1")]
    (home / "plans/shop.yaml").write_text(PLAN.format(home=home, recipient=recipient))
    (home / "dags/recovery_plans.py").write_text(DAG_FILE.format(plans=str(home / "plans")))
    installed.run("airflow", "db", "migrate")
    installed.run("airflow", "connections", "import", home / "kit/connections.json")
    return installed


def dags_of(stranger):
    """The ids that Airflow lists; it prints warnings on the same way."""
    lines = stranger.run("airflow", "dags", "list", "--local", "--output", "json").splitlines()
    return {dag["dag_id"] for dag in json.loads(lines[-1])}


def test_wheel_has_all_files_of_the_package_and_the_graphs(wheel):
    tracked = subprocess.run(["git", "ls-files", "include/recovery"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    graphs = {f"recovery/dags/{family}.py" for family in FAMILIES}
    there = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert there == {name.removeprefix("include/") for name in tracked.split()} | graphs


def test_installed_wheel_makes_the_dags_of_a_plan_and_takes_a_backup(stranger):
    assert dags_of(stranger) == {f"shop_{family}" for family in FAMILIES}
    done = stranger.try_to("airflow", "dags", "test", "shop_backup")
    assert "DagRun Finished" in done.stdout + done.stderr
    kit, backups = stranger.home / "kit", stranger.home / "backups"
    keys = ("--identity", kit / "identity.txt", "--public-key", kit / "public.pem")
    assert "VALID" in stranger.run("recovery", "verify", backups, *keys)


def test_airflow_knows_the_connection_types_and_their_forms(stranger):
    code = """
import json
from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService
print(json.dumps({hook.connection_type: hook.model_dump() for hook in HookMetaService.hook_meta_data()}))
"""
    forms = json.loads(stranger.python(code))
    for kind, file in KEYS.items():
        fields = forms[f"recovery_{kind}"]["standard_fields"]
        assert file in fields["password"]["placeholder"]
        assert all(fields[name]["hidden"] for name in ("host", "login", "port", "url_schema"))


def test_connections_of_the_kit_pass_the_test_of_their_form_and_a_wrong_key_fails(stranger):
    code = """
import json
from airflow.models.connection import Connection
print(json.dumps([Connection.get_connection_from_secrets(name).test_connection() for name in {names}]))
"""
    server = {"_AIRFLOW_PROCESS_CONTEXT": "server"}  # as the API server has it
    wrong = {f"AIRFLOW_CONN_WRONG_{kind.upper()}": json.dumps({"conn_type": f"recovery_{kind}", "password": "secret"}) for kind in KEYS}
    names = ["shop_backup_identity", "shop_backup_signing", "wrong_identity", "wrong_signing"]
    opened, signed, *failed = json.loads(stranger.python(code.format(names=names), **server, **wrong))
    (recipient,) = [word for word in (stranger.home / "kit/identity.txt").read_text().split() if word.startswith("age1")]
    assert opened == [True, f"A message was sealed and opened. The plan's encryption.recipients must have {recipient}"]
    assert signed[0]
    assert signed[1].startswith("A message was signed and verified.")
    assert [passed for passed, _ in failed] == [False, False]
    assert all("of the recovery kit" in words and "'secret'" not in words for _, words in failed)


def test_kind_of_source_without_its_extra_names_the_extra(installed):
    code = """
from recovery.common.errors import PlanError
from recovery.sources import registry
try:
    registry.source_class("{kind}")
except PlanError as error:
    print(error)
"""
    for kind in ("postgres", "mongo"):
        assert f"pip install 'openmanus-recovery[{kind}]'" in installed.python(code.format(kind=kind))


@pytest.mark.parametrize("asked", ASKED_OF_CONTAINERS.values(), ids=ASKED_OF_CONTAINERS)
def test_container_without_its_extra_names_the_extra(installed, asked):
    said = installed.python(ASK.replace("ASKED", asked))
    assert said.startswith("PlanError The Python package docker is not installed, which ")
    assert "pip install 'openmanus-recovery[docker]'" in said


@pytest.mark.parametrize("asked", ASKED_OF_CONTAINERS.values(), ids=ASKED_OF_CONTAINERS)
def test_container_with_its_extra_is_looked_for(installed_with_docker, asked):
    said = installed_with_docker.python(ASK.replace("ASKED", asked))
    assert said.startswith("ContainerError Connecting to it failed. ")
    assert "does not answer as one" in said


def test_extra_of_everything_has_all_extras_and_the_documents_name_each():
    extras = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = extras["all"]
    assert everything == f"openmanus-recovery[{','.join(name for name in extras if name != 'all')}]"
    table = re.findall(r"^\| `(\w+)` \| .* \|$", (PROJECT / "docs/deployment.md").read_text(), re.MULTILINE)
    assert table == list(extras)


def test_bucket_without_its_extra_names_the_extra(installed):
    done = installed.try_to("recovery", "sets", "s3://bucket/prefix")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'openmanus-recovery[s3]'" in done.stderr


def test_command_of_the_wheel_without_a_plan_folder_says_so(installed):
    done = installed.try_to("recovery", "plans", "check")
    assert done.returncode == 2
    assert done.stderr == (
        "No plan folder is named.\nLet the environment variable RECOVERY_PLANS name it, here and in every process of Airflow.\n"
    )


def test_command_of_the_wheel_in_a_folder_with_planted_modules_imports_none(installed, tmp_path):
    marker = tmp_path / "imported"
    folder = installed.home / "planted"
    folder.mkdir()
    plant(folder, marker)
    site = folder / ".local" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    done = subprocess.run(
        [installed.bin / "recovery", "--version"], cwd=folder, env={"PATH": ".:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.count(".") == 2
    assert not marker.exists(), marker.read_text()
