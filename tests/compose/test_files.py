"""docker-compose.yaml, Dockerfile and .env.example as files: what can be known without an Engine. tests/docker starts them."""

import re
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parent.parent.parent
COMPOSE = (PROJECT / "docker-compose.yaml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
ONE_SHOTS = {"init", "sample-data"}
AIRFLOW = {"api-server", "scheduler", "dag-processor", "triggerer", "worker", "drill-worker"}
SECRETS = "PASSWORD|SECRET|KEY"


def variables(pattern: str) -> set[str]:
    return set(re.findall(rf"(?<!\$)\$\{{([A-Z0-9_]+){pattern}", COMPOSE))


def example() -> dict[str, str]:
    lines = (PROJECT / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_env_example_has_every_compose_variable_and_no_other_variable():
    assert set(example()) == variables("")


def test_required_compose_variable_is_empty_in_env_example_and_named_in_its_message():
    assert all(example()[name] == "" for name in variables(r":\?"))
    assert all(name in message for name, message in re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):\?([^}]*)\}", COMPOSE))


def test_compose_secrets_are_required_and_have_no_default():
    secrets = {name for name in example() if re.search(SECRETS, name)}
    assert len(secrets) == 10
    assert all(example()[name] == "" for name in secrets)
    assert secrets - {"SAMPLE_PASSWORD"} <= variables(r":\?")
    assert not re.search(rf"\$\{{[A-Z0-9_]*({SECRETS})[A-Z0-9_]*:-[^}}]", COMPOSE)


def test_compose_defaults_equal_the_values_of_env_example():
    defaults = dict(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):-([^}]*)\}", COMPOSE))
    assert {name: example()[name] for name in defaults} == defaults


@pytest.mark.parametrize("name", sorted(set(SERVICES) - ONE_SHOTS))
def test_long_running_compose_service_has_a_health_check(name):
    assert SERVICES[name]["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}


@pytest.mark.parametrize("name", sorted(ONE_SHOTS))
def test_one_shot_compose_service_is_not_restarted(name):
    assert SERVICES[name]["restart"] == "no"


@pytest.mark.parametrize("name", sorted(AIRFLOW))
def test_airflow_services_wait_for_healthy_servers_and_a_created_database(name):
    waits = {service: how["condition"] for service, how in SERVICES[name]["depends_on"].items()}
    assert waits == {"init": "service_completed_successfully", "metadata": "service_healthy", "redis": "service_healthy"}


@pytest.mark.parametrize("name", sorted({*AIRFLOW, "init"}))
def test_airflow_services_run_as_the_user_whom_their_image_is_built_for(name):
    assert SERVICES[name]["user"] == "${RECOVERY_UID:-50000}:0"
    assert SERVICES[name]["build"]["args"]["RECOVERY_UID"] == "${RECOVERY_UID:-50000}"


def test_container_images_are_pinned():
    dockerfile = (PROJECT / "Dockerfile").read_text()
    images = [re.sub(r"^\$\{\w+_IMAGE:-(.+)\}$", r"\1", service["image"]) for service in SERVICES.values()] + re.findall(
        r"^ARG \w+_IMAGE=(.+)$", dockerfile, re.MULTILINE
    )
    assert len(images) > len(SERVICES)
    for image in images:
        assert re.search(r":v?\d+\.\d+", image), image
    assert set(re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)) <= {"${PYTHON_IMAGE}", "${GO_IMAGE}", "${MONGO_IMAGE}"}


def test_worker_service_gets_no_key_of_the_airflow_servers():
    server, worker = SERVICES["api-server"]["environment"], SERVICES["worker"]["environment"]
    assert {
        "AIRFLOW__CORE__FERNET_KEY",
        "AIRFLOW__API_AUTH__JWT_SECRET",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    } <= server.keys() - worker.keys()
    assert worker.items() <= server.items()


def test_only_the_worker_services_mount_staging_and_backups_and_only_worker_the_sources():
    for name in AIRFLOW:
        mounts = " ".join(SERVICES[name]["volumes"])
        seen = {part for part in ("staging:/var/lib/recovery/staging", "${BACKUPS:-backups}:", "${OPENMANUS_") if part in mounts}
        assert len(seen) == {"worker": 3, "drill-worker": 2}.get(name, 0), name


def test_queue_of_drills_is_served_by_one_worker_alone():
    queue = SERVICES["worker"]["environment"]["DRILL_QUEUE"]
    assert queue in SERVICES["drill-worker"]["command"]
    assert "scale" not in SERVICES["drill-worker"]
    assert queue not in SERVICES["worker"]["command"]
    plan = yaml.safe_load((PROJECT / "include/plans/openmanus.yaml").read_text())
    assert plan["drill"]["queue"] == "${DRILL_QUEUE:-default}"


def test_every_compose_volume_is_declared():
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", []) if re.match(r"[a-z]", volume)}
    assert used | {"backups"} == set(yaml.safe_load(COMPOSE)["volumes"])


def test_dockerfile_copies_existing_files_that_dockerignore_allows():
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = set(re.findall(r"^COPY ([^-]\S+) ", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    assert {name.rstrip("/") for name in copied} == allowed
    assert all((PROJECT / name).exists() for name in allowed)


def test_compose_executor_and_auth_manager_can_be_imported():
    from airflow.providers.celery.executors.celery_executor import CeleryExecutor  # noqa: PLC0415 - loading it is what is tested
    from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager  # noqa: PLC0415

    environment = SERVICES["scheduler"]["environment"]
    assert environment["AIRFLOW__CORE__EXECUTOR"] == CeleryExecutor.__name__
    named = environment["AIRFLOW__CORE__AUTH_MANAGER"]
    assert named == f"{FabAuthManager.__module__}.{FabAuthManager.__name__}"


def test_sample_connections_have_placeholder_passwords():
    text = (PROJECT / "tools/compose/sample-connections.json").read_text()
    assert set(re.findall(r'"password": "(.*)"', text)) == {"<SAMPLE_PASSWORD>"}
