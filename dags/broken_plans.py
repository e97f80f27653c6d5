"""No DAG of its own: Airflow shows this file's one import error, which names each broken plan file, and each DAG that can't be built.

The other DAGs are in other files, so they load all the same. Airflow reads each file in a process of its own, and the files leave no
notes for one another: so all DAGs are built once more here.
"""

from pathlib import Path

from recovery.airflow.dags import build_families, refuse_faults

_, faults = build_families(Path(__file__).parent)
refuse_faults(faults)
