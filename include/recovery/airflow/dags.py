"""From plans to DAGs: :func:`make_dags` is all that a DAG file has to call. The graphs are in the files of the folder ``dags/``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from airflow.sdk import DAG, CronTriggerTimetable, get_parsing_context, task

import recovery
from recovery.airflow.tasks import operator_errors
from recovery.common.errors import PlanError
from recovery.common.faults import Faults
from recovery.common.wording import escaped
from recovery.plan.loader import PLANS_VARIABLE, load_plans
from recovery.plan.model import Plan

FAMILIES = ("backup", "drill", "maintenance", "restore")
"""The DAGs of a plan, and the names of the files that have their graphs."""
BROKEN_PLANS = "broken_plans"
"""Id of the DAG that names what can't be built."""

_PACKAGE = Path(recovery.__file__).parent
_GRAPHS = _PACKAGE / "dags" if (_PACKAGE / "dags").is_dir() else _PACKAGE.parents[1] / "dags"
"""The graphs are in the wheel's package, and in the source tree beside it, where Airflow reads them without this module."""
_MEND = "Mend the plan files; the DAGs come back by themselves."


def make_dags(plans: str | os.PathLike[str] | None = None) -> dict[str, DAG]:
    """The DAGs of every plan of a folder, by id. A DAG file needs two lines::

        from recovery.airflow.dags import make_dags

        globals().update(make_dags("/etc/recovery/plans"))

    Airflow takes all DAGs of a file out of use if it has an import error. So a broken plan file, or a DAG that can't be built, is
    left out, and the failing DAG ``broken_plans`` names it.

    Args:
        plans: an absolute path; without, the folder that ``RECOVERY_PLANS`` names. Tasks read their plan there again.

    Raises:
        PlanError: if the path is relative, or the folder can't be read.
    """
    if plans is not None:
        folder = Path(plans)
        if not folder.is_absolute():
            raise PlanError(
                f"make_dags was given the plan folder {str(folder)!r}, and Airflow's processes run in different working folders.",
                'Give it an absolute path, or one that begins beside the DAG file: Path(__file__).parent / "plans".',
            )
        os.environ[PLANS_VARIABLE] = str(folder)
    built, faults = build_families()
    if faults:
        built[BROKEN_PLANS] = _broken_plans(faults)
    return built


def build_families(graphs: Path = _GRAPHS) -> tuple[dict[str, DAG], list[str]]:
    """The DAGs of all plans by their ids, and a sentence for each plan file that is broken, and for each DAG that can't be built.

    Args:
        graphs: a folder with a file for each family.

    Raises:
        PlanError: if the plan folder can't be read.
    """
    wanted = get_parsing_context().dag_id
    built: dict[str, DAG] = {}
    faults = Faults(_not_built)
    faults.sentences += map(str, load_plans().broken)
    for family in FAMILIES:
        if wanted in {None, BROKEN_PLANS} or wanted.endswith(f"_{family}"):
            with faults.noted(family):
                graph = _run(graphs / f"{family}.py")
                built |= graph.dags
                faults.sentences += graph.faults
    return built, faults.sentences


def build_all(family: str, build: Callable[[Plan], DAG]) -> tuple[dict[str, DAG], list[str]]:
    """The DAGs of a family by their ids, and a sentence for each that can't be built.

    One that fails must not take along those of other plans. Nor may its file have an import error: for that Airflow takes all DAGs of
    the file out of use. So it is left out, also half built, and reported elsewhere.
    """
    built: dict[str, DAG] = {}
    faults = Faults(_not_built)
    for plan in _plans_to_build(family):
        with faults.noted(f"{plan.plan}_{family}"):
            dag = build(plan)
            _refuse_unusable(dag)
            built[dag.dag_id] = dag
    return built, faults.sentences


def refuse_faults(faults: list[str]) -> None:
    """Fail if there is a fault.

    Raises:
        PlanError: with all of them.
    """
    if faults:
        raise PlanError("\n".join(faults), _MEND)


def _plans_to_build(family: str) -> Iterator[Plan]:
    """The plans whose DAG of a family is to be built: all of them, or in a task's process only the one that it runs."""
    wanted = get_parsing_context().dag_id
    for plan in load_plans().valid:
        if wanted in {None, BROKEN_PLANS, f"{plan.plan}_{family}"}:
            yield plan


def _run(file: Path) -> ModuleType:
    """A graph's file, run anew as Airflow runs DAG files: a second folder of plans in one process gets its own DAGs."""
    spec = spec_from_file_location(f"recovery_dags_{file.stem}", file)
    assert spec, file
    assert spec.loader, file
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _refuse_unusable(dag: DAG) -> None:
    """Fail as Airflow would when it has read the whole file, and takes and stores its DAGs. A task stores none, so it need not try."""
    dag.validate()  # type: ignore[no-untyped-call]
    if get_parsing_context().dag_id is None:
        from airflow.serialization.serialized_objects import DagSerialization

        DagSerialization.to_dict(dag)


def _not_built(dag_id: str, error: Exception) -> str:
    return escaped(f"{dag_id}: this DAG can't be built from its plan: {type(error).__name__}: {error}")


def _broken_plans(faults: list[str]) -> DAG:
    """A DAG that is there as long as there is a fault, and is red at once and each day."""

    @task
    @operator_errors
    def name_them() -> None:
        refuse_faults(faults)

    words = "\n".join(f"    {line}" for fault in faults for line in fault.splitlines())  # indented, it is no markup
    with DAG(
        dag_id=BROKEN_PLANS,
        description="Plan files that can't be used, and DAGs that can't be built",
        doc_md=f"{_MEND}\n\n{words}\n",
        schedule=CronTriggerTimetable("@daily", timezone="UTC"),
        start_date=datetime(2026, 1, 1, tzinfo=UTC),
        catchup=False,
        is_paused_upon_creation=False,  # nobody knows yet that there is something to see
        auto_register=False,
        tags=["recovery"],
    ) as dag:
        name_them()
    return dag
