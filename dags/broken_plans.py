"""No DAG of its own: where plan files are broken, Airflow shows this file's one import error, which names file and key of each.

The DAGs of the other plans are in other files, so they load all the same.
"""

from recovery.common.errors import PlanError
from recovery.plan.loader import load_plans

broken = load_plans().broken
if broken:
    raise PlanError("\n".join(str(plan) for plan in broken), "Mend the plan files; the DAGs come back by themselves.")
