"""Airflow imports this when it starts. Its tasks are forks, so none of them has to import this project anew, which takes a second."""

import importlib
import pkgutil

import recovery

HEAVY = {"recovery.__main__"}
"""What no task needs: it would run."""

for module in pkgutil.walk_packages(recovery.__path__, "recovery."):
    if module.name not in HEAVY:
        importlib.import_module(module.name)
