"""A real Airflow for whole runs: two approvers, tasks that start quickly, and plans that are read once."""

import os
from pathlib import Path

from sandbox.airflow import PROJECT, Airflow

USERS = {"operator": "user", "alice": "user", "bob": "user", "carol": "viewer"}
"""``alice`` and ``bob`` are the approvers of every plan of these tests."""
_SETTINGS = Path(__file__).with_name("airflow_settings")
"""A folder with what Airflow imports when it starts."""


def quick_airflow(folder, plans, connections):
    """Airflow for the plans of a folder, with Connections in its environment; not started yet."""
    path = os.pathsep.join(map(str, (PROJECT / "include", _SETTINGS)))
    environment = {"RECOVERY_PLANS": str(plans), "PYTHONPATH": path}
    quiet = {"dag_processor.min_file_process_interval": "900"}  # parsing all plans again and again takes the machine from the tasks
    return Airflow(folder, users=USERS, connections=connections, environment=environment, settings=quiet)
