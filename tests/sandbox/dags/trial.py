"""A DAG with a gate, a failing task and a task that goes on for long, to try the sandbox's Airflow with."""

import os
import subprocess
from datetime import timedelta

import pendulum
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, BaseHook, task


@task
def say(**context):
    """Print and return what the run was asked for, and what the connection and the environment hold."""
    connection = BaseHook.get_connection("somewhere")
    print(f"hello from {context['dag_run'].triggering_user_name}")
    return [context["params"]["word"], connection.host, connection.password, os.environ["GREETING"]]


@task
def fail():
    """Fail."""
    raise ValueError("on purpose")


@task
def linger():
    """Start a program that outlives its parents, and wait for it."""
    subprocess.run(["sleep", "4321"], start_new_session=True, check=True)


with DAG("trial", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), params={"word": "nothing"}):
    gate = ApprovalOperator(
        task_id="gate",
        subject="Go on?",
        body="**Really**",
        fail_on_reject=True,
        assigned_users=[{"id": "alice", "name": "Alice"}],
        retries=20,  # Airflow loses an answer on a busy machine
        retry_delay=timedelta(seconds=1),
    )
    say() >> gate >> fail()

with DAG("long", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")):
    linger()
