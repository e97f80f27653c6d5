"""``recovery check``: what a plan's destinations can do is known before the first backup."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from botocore.exceptions import ClientError

from recovery.cli.main import main
from recovery.common.connections import Clients, Endpoint
from recovery.destinations.folder import Folder
from tests.cli.test_main import plan
from tests.support.pooler import PgBouncer
from tests.support.processes import RECOVERY
from tests.support.sets import keys_of, s3_destination

AIRFLOW = Path(sys.executable).with_name("airflow")


def no_connection(connection_id):
    raise AssertionError(connection_id)


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Runs the command for a plan with these destinations; its exit status and its lines."""
    (tmp_path / "plans").mkdir()
    monkeypatch.setenv("RECOVERY_PLANS", str(tmp_path / "plans"))

    def run(destinations, client=no_connection, connect=no_connection, **keys):
        kept = {name: place | {"keep_last": 3} for name, place in destinations.items()}
        (tmp_path / "plans/shop.yaml").write_text(yaml.safe_dump(plan(destinations=kept, **keys), sort_keys=False))
        status = main(["check", "shop"], lambda: Clients(connect, client))
        return status, capsys.readouterr().out.splitlines()

    return run


def bucket(there):
    return {"s3": {"connection": "offsite", "bucket": there._bucket, "prefix": there._prefix.rstrip("/")}}


@pytest.mark.servers
def test_check_says_what_each_destination_can_do_and_leaves_nothing(check, local, s3_server):
    there = s3_destination(s3_server)
    status, (near, far) = check({"near": {"folder": str(local.root)}, "far": bucket(there)}, lambda _: s3_server.client())
    assert status == 0
    assert near.startswith(f"near: {local.root} can be used, with ")
    assert near.endswith("free; it confirms what arrives by reading it back")
    assert far == f"far: {there.describe()} can be used; it confirms what arrives by SHA-256"
    assert keys_of(local) == keys_of(there) == set()
    assert "Uploads" not in there._client.list_multipart_uploads(Bucket=there._bucket, Prefix=there._prefix)


@pytest.mark.servers
@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "GetObject", "ListObjectsV2"])
def test_check_fails_for_a_bucket_that_refuses_one_operation(check, s3_server, operation):
    def refuse(**_):
        raise ClientError({"Error": {"Code": "AccessDenied"}, "ResponseMetadata": {"HTTPStatusCode": 403}}, operation)

    client = s3_server.client()
    client.meta.events.register(f"before-call.s3.{operation}", refuse)
    status, (line,) = check({"far": bucket(s3_destination(s3_server))}, lambda _: client)
    assert status == 1
    assert line.startswith("far: NOT USABLE. Could not ")
    assert "Next: Give the Connection's keys the right" in line


def test_check_fails_for_a_missing_folder_and_still_says_the_others(check, local, tmp_path):
    status, (gone, near) = check({"gone": {"folder": str(tmp_path / "gone")}, "near": {"folder": str(local.root)}})
    assert status == 1
    assert gone.startswith(f"gone: NOT USABLE. The folder {tmp_path}/gone of the destination gone is not there. Next: Create it")
    assert "can be used" in near


def test_check_fails_for_a_destination_with_another_clock(check, local, monkeypatch):
    monkeypatch.setattr(Folder, "now", lambda self: datetime.now(UTC) - timedelta(hours=1))
    status, (line,) = check({"near": {"folder": str(local.root)}})
    assert status == 1
    assert "are 1 h apart" in line


@pytest.mark.servers
def test_check_asks_postgresql_servers_and_names_a_pooler(check, local, postgres_server, server_folder):
    def endpoint(port):
        return lambda _: Endpoint("live", "127.0.0.1", port, "postgres", postgres_server.password)

    sources = {"postgres": {"main": {"connection": "live"}}, "files": {"uploads": {"path": "/srv/uploads"}}}
    tools = {"postgres": [str(postgres_server.bin)]}
    there, plan_keys = {"near": {"folder": str(local.root)}}, {"sources": sources, "tools": tools}
    status, (server, _) = check(there, connect=endpoint(postgres_server.port), **plan_keys)
    assert status == 0
    assert server.startswith(f"postgres.main: PostgreSQL {postgres_server.major}")
    assert server.endswith(f" as postgres, with the client tools in {postgres_server.bin} can be used")
    with PgBouncer(server_folder / "pooler-check", postgres_server, "transaction", "") as pooler:
        status, (server, _) = check(there, connect=endpoint(pooler.port), **plan_keys)
    assert status == 1
    assert server.startswith("postgres.main: NOT USABLE. Not PostgreSQL itself but a pooler")
    assert server.endswith("Next: Write the server's direct address into the Connection, without the pooler.")


@pytest.mark.long
@pytest.mark.servers
def test_check_reads_connections_from_the_database_of_airflow(tmp_path, s3_server):
    there = s3_destination(s3_server)
    (tmp_path / "shop.yaml").write_text(yaml.safe_dump(plan(destinations={"far": bucket(there) | {"keep_last": 3}})))
    environment = os.environ | {"AIRFLOW_HOME": str(tmp_path), "RECOVERY_PLANS": str(tmp_path)}
    extra = json.dumps({"endpoint_url": s3_server.url, "region_name": "us-east-1"})
    keys = ["--conn-login", s3_server.access_key, "--conn-password", s3_server.secret_key]
    for argv in (["db", "migrate"], ["connections", "add", "offsite", "--conn-type", "aws", *keys, "--conn-extra", extra]):
        subprocess.run([AIRFLOW, *argv], env=environment, check=True, capture_output=True)
    done = subprocess.run([RECOVERY, "check", "shop"], env=environment, check=False, capture_output=True, text=True)
    assert done.stdout.endswith("it confirms what arrives by SHA-256\n")
    assert done.returncode == 0
