"""Finding and reading plan files: YAML, ``${NAME:-default}``, every error of a file at once, in words."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from recovery.common.errors import PlanError
from recovery.common.wording import escaped
from recovery.plan.model import Plan
from recovery.plan.variables import MOST_ERRORS, filled
from recovery.plan.yaml_file import read_yaml

log = logging.getLogger(__name__)

PLANS_VARIABLE = "RECOVERY_PLANS"
"""Environment variable with the plan folder."""
DEFAULT_FOLDER = Path(__file__).parents[2] / "plans"
"""The plans of the source tree. An installed package has none."""
_LONGEST_ERROR = 600
"""Characters. Names of all keys of a plan are fewer."""


@dataclass(frozen=True)
class BrokenPlan:
    """A plan file that can't be used."""

    path: Path
    errors: tuple[str, ...]
    """One sentence each, with the key's path and what to write instead."""

    def __str__(self) -> str:
        return "\n".join(escaped(f"{self.path.name}: {error}") for error in self.errors)


@dataclass(frozen=True)
class Plans:
    """What a folder of plan files holds."""

    valid: tuple[Plan, ...]
    broken: tuple[BrokenPlan, ...]


def folder() -> Path:
    """The folder that ``RECOVERY_PLANS`` names, else the one of the source tree.

    Raises:
        PlanError: if none is named, and this is an installed package.
    """
    if named := os.environ.get(PLANS_VARIABLE):
        return Path(named)
    if DEFAULT_FOLDER.parent.name == "include":
        return DEFAULT_FOLDER
    raise PlanError(
        "No plan folder is named.", f"Let the environment variable {PLANS_VARIABLE} name it, here and in every process of Airflow."
    )


def load_plans(where: Path | None = None) -> Plans:
    """Read every ``*.yaml`` and ``*.yml`` of a folder. A broken one never hides another.

    Raises:
        PlanError: if the folder itself can't be read.
    """
    where = where or folder()
    if not where.is_dir():
        raise PlanError(f"There is no plan folder {where}.", "Create it, or let RECOVERY_PLANS name the right one.")
    read = {path: read_plan(path) for path in sorted(path for path in where.iterdir() if path.suffix in {".yaml", ".yml"})}
    owners: dict[str, Path] = {}
    for path in sorted(read, key=lambda path: not _is_named_alike(path, read[path])):
        if isinstance(plan := read[path], Plan):
            owners.setdefault(plan.plan, path)
    valid, broken = [], []
    for path, result in read.items():
        if isinstance(result, BrokenPlan):
            broken.append(result)
        elif owners[result.plan] != path:
            broken.append(BrokenPlan(path, (f"plan: another file of the folder is named {result.plan!r} too; choose another name",)))
        else:
            valid.append(result)
    return Plans(tuple(valid), tuple(broken))


def _is_named_alike(path: Path, result: Plan | BrokenPlan) -> bool:
    """Whether a file is named like its plan: nobody takes that name from it by another file."""
    return isinstance(result, Plan) and path.stem == result.plan


def load_plan(name: str, where: Path | None = None) -> Plan:
    """The plan of a name.

    Raises:
        PlanError: if the folder has none of that name that can be used.
    """
    plans = load_plans(where)
    for plan in plans.valid:
        if plan.plan == name:
            return plan
    faults = "".join(f"\n{broken}" for broken in plans.broken)
    raise PlanError(f"There is no usable plan {name!r} in {where or folder()}.{faults}", "Mend the plan file, or name another plan.")


def read_plan(path: Path, environ: Mapping[str, str] | None = None) -> Plan | BrokenPlan:
    """Read one plan file. Whatever it holds, it keeps no other plan from being read."""
    try:
        return _read(path, os.environ if environ is None else environ)
    except Exception as error:
        log.exception("%s", path)
        defect = f"a defect of this program keeps it from being read ({type(error).__name__}); report that with this file"
        return BrokenPlan(path, (defect,))


def _read(path: Path, environ: Mapping[str, str]) -> Plan | BrokenPlan:
    try:
        values, errors = filled(read_yaml(path), environ)
    except ValueError as error:
        return BrokenPlan(path, (str(error),))
    if not isinstance(values, dict):
        return BrokenPlan(path, ("is not a plan: it must begin with keys such as plan, sources and destinations",))
    try:
        plan = Plan.model_validate(values)
    except ValidationError as invalid:
        errors += _sentences(invalid)
    return BrokenPlan(path, tuple(_first(errors))) if errors else plan


def _first(errors: list[str]) -> list[str]:
    """As many as somebody reads, and as much of each."""
    more = ["has more errors; mend these first"] if len(errors) > MOST_ERRORS else []
    return [error if len(error) <= _LONGEST_ERROR else f"{error[:_LONGEST_ERROR]}…" for error in errors[:MOST_ERRORS]] + more


def _sentences(invalid: ValidationError) -> list[str]:
    found = invalid.errors()
    places = [error["loc"] for error in found]
    return [_sentence(error) for error in found[: MOST_ERRORS + 1] if not _told_inside(error, places)]


def _told_inside(error: ErrorDetails, places: list[tuple[int | str, ...]]) -> bool:
    """Whether something is only short because of what is wrong inside it, which is told on its own."""
    here = error["loc"]
    return error["type"] == "too_short" and error["input"] and any(other[: len(here)] == here and other != here for other in places)


def _sentence(error: ErrorDetails) -> str:
    *above, key = error["loc"] or ("",)
    if error["type"] == "extra_forbidden":
        known = _keys_at(tuple(above))
        near = difflib.get_close_matches(str(key), known, 1)
        what = f"is not a key of a plan here; {f'did you mean {near[0]}?' if near else 'known are ' + ', '.join(known)}"
    elif error["type"] == "missing":
        what = "is missing; write it"
    elif error["type"] in {"string_type", "path_type"} and not isinstance(error["input"], list | dict):
        what = _mistaken(error["input"])
    else:
        what = error["msg"].removeprefix("Value error, ")
        what += "" if error["type"] == "value_error" else f" (found {_shown(error['input'])})"
    path = ".".join(str(part) for part in error["loc"] if part != "[key]")
    return f"{path}: {what}" if path else what


def _mistaken(value: Any) -> str:
    """What YAML made of a value that is meant as a text, and has no quotes."""
    if value is None:
        return "YAML reads this as nothing; write a value, or put it in quotes"
    if isinstance(value, bool):
        return f"YAML reads this as the answer {'yes' if value else 'no'}; put it in quotes"
    return f"YAML reads this as the {'number' if isinstance(value, int | float) else 'date'} {value}; put it in quotes"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"


def _keys_at(location: tuple[int | str, ...]) -> list[str]:
    """The keys that the model at a place knows."""
    here: Any = Plan
    for part in location:
        fields = here.model_fields if isinstance(here, type) and issubclass(here, BaseModel) else {}
        here = fields[part].annotation if part in fields else next((argument for argument in reversed(get_args(here))), here)
        here = next((choice for choice in (here, *get_args(here)) if isinstance(choice, type) and issubclass(choice, BaseModel)), here)
    return sorted(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def plan_schema() -> dict[str, Any]:
    """The JSON Schema of a plan file, for editors; ``include/plans/plan.schema.json`` holds it."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Recovery plan"} | Plan.model_json_schema()
