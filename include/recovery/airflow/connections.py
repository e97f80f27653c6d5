"""Connections and S3 clients, as Airflow has them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from recovery.common.connections import Clients, Endpoint
from recovery.common.errors import ConnectionUnusable
from recovery.common.extras import extra

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


def from_airflow(connection_id: str) -> Endpoint:
    """Read an Airflow Connection; only inside a running task or callback.

    Raises:
        ConnectionUnusable: if there is none of that id.
    """
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        connection = BaseHook.get_connection(connection_id)
    except AirflowNotFoundException:
        raise ConnectionUnusable(
            f"There is no Airflow Connection {connection_id!r}, which the plan names.",
            "Add it under Admin, Connections, or correct the id in the plan.",
        ) from None
    return Endpoint(
        id=connection_id,
        host=connection.host or "",
        port=connection.port,
        login=connection.login or "",
        password=connection.password or "",
        schema=connection.schema or "",
        extra=dict(connection.extra_dejson),
    )


def s3_client(connection_id: str) -> S3Client:
    """The boto3 S3 client that an AWS Connection describes: keys, roles, region, endpoint and its style are S3Hook's business.

    Raises:
        ConnectionUnusable: if there is no such Connection, or no client can be made of it.
        PlanError: if a package that it needs is not installed.
    """
    with extra("s3", f"the Connection {connection_id!r}"):
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        from botocore.exceptions import BotoCoreError

        from recovery.destinations.s3 import CONFIG

    from_airflow(connection_id)  # the hook itself would go on with whatever credentials lie around
    try:
        hook = S3Hook(aws_conn_id=connection_id)
        client: S3Client = hook.get_client_type(config=hook.config.merge(CONFIG))
    except (BotoCoreError, ValueError) as error:
        raise ConnectionUnusable(
            f"The Connection {connection_id!r} describes no S3 client: {error}.",
            "Correct it: endpoint_url in its extra is an address such as https://s3.example.org, without a bucket.",
        ) from error
    return client


CLIENTS = Clients(from_airflow, s3_client)
"""What tasks and callbacks work with."""


def for_commands() -> Clients:
    """The same for a command, which no task runs: Airflow's commands read the database of Connections in this way."""
    os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
    return CLIENTS
