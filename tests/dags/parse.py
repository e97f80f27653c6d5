"""Run in a process of its own: parse the DAG folder and print, as JSON, what came out and what it took."""

import json
import os
import sys
from pathlib import Path

from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization

touched = {"network": [], "opened": []}


def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto"}:
        touched["network"].append(f"{event} {arguments}")
        raise PermissionError(f"{event} while a DAG file is parsed")
    if event in {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn"}:
        touched["network"].append(f"{event} {arguments}")
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        touched["opened"].append(str(Path(os.fsdecode(arguments[0])).absolute()))


before = set(sys.modules)
sys.addaudithook(watch)
bag = DagBag(sys.argv[1])
touched = {what: list(found) for what, found in touched.items()}
modules = sorted(set(sys.modules) - before)
serialized = {dag_id: DagSerialization.to_dict(dag) for dag_id, dag in bag.dags.items()}
print(json.dumps({"errors": bag.import_errors, "dags": serialized, "modules": modules, **touched}, default=str))
