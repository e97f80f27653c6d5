"""No DAG of its own: Airflow shows this file's one import error, which names each broken plan file, and each DAG that can't be built.

The other DAGs are in other files, so they load all the same. Airflow reads each file in a process of its own, and the files leave no
notes for one another: so all DAGs are built once more here.
"""

import runpy
from pathlib import Path

from recovery.common.errors import PlanError
from recovery.plan.loader import load_plans

faults = [str(plan) for plan in load_plans().broken]
for family in ("backup", "drill", "maintenance", "restore"):
    faults += runpy.run_path(str(Path(__file__).with_name(f"{family}.py")))["faults"]
if faults:
    raise PlanError("\n".join(faults), "Mend the plan files; the DAGs come back by themselves.")
