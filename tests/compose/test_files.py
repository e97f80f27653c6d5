"""docker-compose.yaml, Dockerfile and .env.example can't be started here; what can be known without is checked."""

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parent.parent.parent
COMPOSE = (PROJECT / "docker-compose.yaml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
ONE_SHOTS = {"init", "sample-bucket"}
AIRFLOW = {"api-server", "scheduler", "dag-processor", "triggerer", "worker"}
SECRETS = "PASSWORD|SECRET|KEY"


def variables(pattern: str) -> set[str]:
    return set(re.findall(rf"(?<!\$)\$\{{([A-Z_]+){pattern}", COMPOSE))


def example() -> dict[str, str]:
    lines = (PROJECT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_every_variable_is_in_the_example_and_no_other():
    assert set(example()) == variables("")


def test_a_required_variable_has_no_value_in_the_example_and_its_message_names_it():
    assert all(example()[name] == "" for name in variables(r":\?"))
    assert all(name in message for name, message in re.findall(r"(?<!\$)\$\{([A-Z_]+):\?([^}]*)\}", COMPOSE))


def test_every_secret_is_required_and_without_a_default():
    secrets = {name for name in example() if re.search(SECRETS, name)}
    assert len(secrets) == 10
    assert all(example()[name] == "" for name in secrets)
    assert secrets - {"SAMPLE_PASSWORD"} <= variables(r":\?")
    assert not re.search(rf"\$\{{[A-Z_]*({SECRETS})[A-Z_]*:-[^}}]", COMPOSE)


def test_every_optional_variable_is_what_the_example_says():
    defaults = dict(re.findall(r"(?<!\$)\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    assert {name: example()[name] for name in defaults} == defaults


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOTS))
def test_a_service_that_stays_has_a_health_check(name):
    assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", sorted(ONE_SHOTS))
def test_a_service_that_ends_is_not_started_again(name):
    assert SERVICES[name]["restart"] == "no"


@pytest.mark.parametrize("name", sorted(AIRFLOW))
def test_airflow_starts_when_its_servers_are_healthy_and_its_database_is_made(name):
    waits = {service: how["condition"] for service, how in SERVICES[name]["depends_on"].items()}
    assert waits == {"init": "service_completed_successfully", "metadata": "service_healthy", "redis": "service_healthy"}


@pytest.mark.parametrize("name", sorted({*AIRFLOW, "init"}))
def test_airflow_does_not_run_as_root(name):
    assert SERVICES[name]["user"] == "${RECOVERY_UID:-50000}:0"


def test_images_are_pinned():
    dockerfile = (PROJECT / "Dockerfile").read_text()
    images = [service["image"] for service in SERVICES.values()] + re.findall(r"^ARG \w+_IMAGE=(.+)$", dockerfile, re.MULTILINE)
    assert len(images) > len(SERVICES)
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) <= {"${PYTHON_IMAGE}", "${GO_IMAGE}"}


def test_a_worker_gets_no_key_of_the_servers():
    server, worker = SERVICES["api-server"]["environment"], SERVICES["worker"]["environment"]
    assert {
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    } <= server.keys() - worker.keys()
    assert worker.items() <= server.items()


def test_only_workers_see_what_is_backed_up_and_the_backups():
    for name in AIRFLOW - {"worker"}:
        mounts = {volume.rsplit(":", 2)[0] for volume in SERVICES[name]["volumes"]}
        assert not mounts & {"staging", "${BACKUPS:-backups}"}, name
        assert "OPENMANUS" not in " ".join(SERVICES[name]["volumes"])
    assert "staging:/var/lib/recovery/staging" in SERVICES["worker"]["volumes"]


def test_every_volume_is_declared():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if re.match(r"[a-z]", volume)}
    assert used | {"backups"} == set(yaml.safe_load(COMPOSE)["volumes"])


def test_what_the_image_copies_exists_and_gets_past_dockerignore():
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set(re.findall(r"^COPY ([^-]\S+) ", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    assert {name.rstrip("/") for name in copied} == allowed
    assert all((PROJECT / name).exists() for name in allowed)


def test_the_executor_and_the_auth_manager_can_be_loaded():
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor  # noqa: PLC0415 - loading it is what is tested

    from recovery.airflow.auth_manager import FabAuthManagerByName  # noqa: PLC0415

    environment = SERVICES["scheduler"]["environment"]
    assert environment["AIRFLOW__CORE__EXECUTOR"] == CeleryExecutor.__name__
    named = environment["AIRFLOW__CORE__AUTH_MANAGER"]
    assert named == f"{FabAuthManagerByName.__module__}.{FabAuthManagerByName.__name__}"


def test_the_passwords_of_the_sample_connections_are_for_people_to_fill_in():
    text = (PROJECT / "tools/compose/sample-connections.json").read_text()
    assert set(re.findall(r'"password": "(.*)"', text)) == {"<SAMPLE_PASSWORD>"}
