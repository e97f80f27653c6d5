"""Finding and reading plan files: YAML, ``${NAME:-default}``, every error of a file at once, in words."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from yaml.composer import Composer

from recovery.common.errors import PlanError
from recovery.plan.model import Plan

DEFAULT_FOLDER = Path(__file__).parents[2] / "plans"
_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|\{(?P<braced>\w+)(?:(?P<how>:?[-?+])(?P<value>[^}]*))?\}|(?P<plain>[A-Za-z_]\w*)|(?P<bad>))")


@dataclass(frozen=True)
class BrokenPlan:
    """A plan file that can't be used."""

    path: Path
    errors: tuple[str, ...]
    """One sentence each, with the key's path and what to write instead."""

    def __str__(self) -> str:
        return "\n".join(f"{self.path.name}: {error}" for error in self.errors)


@dataclass(frozen=True)
class Plans:
    """What a folder of plan files holds."""

    valid: tuple[Plan, ...]
    broken: tuple[BrokenPlan, ...]


def folder() -> Path:
    """The folder that ``RECOVERY_PLANS`` names, else the one that ships."""
    return Path(os.environ.get("RECOVERY_PLANS") or DEFAULT_FOLDER)


def load_plans(where: Path | None = None) -> Plans:
    """Read every ``*.yaml`` and ``*.yml`` of a folder. A broken one never hides another.

    Raises:
        PlanError: if the folder itself can't be read.
    """
    where = where or folder()
    if not where.is_dir():
        raise PlanError(f"There is no plan folder {where}.", "Create it, or let RECOVERY_PLANS name the right one.")
    valid: dict[str, Plan] = {}
    broken = []
    for path in sorted(path for path in where.iterdir() if path.suffix in {".yaml", ".yml"}):
        result = read_plan(path)
        if isinstance(result, BrokenPlan):
            broken.append(result)
        elif result.plan in valid:
            broken.append(BrokenPlan(path, (f"plan: another file of the folder is named {result.plan!r} too; choose another name",)))
        else:
            valid[result.plan] = result
    return Plans(tuple(valid.values()), tuple(broken))


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
    """Read one plan file."""
    errors: list[str] = []
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
        filled = _fill(raw, os.environ if environ is None else environ, "", errors)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        return BrokenPlan(path, (f"is not readable YAML: {' '.join(str(error).split())}",))
    if not isinstance(filled, dict):
        return BrokenPlan(path, ("is not a plan: it must begin with keys such as plan, sources and destinations",))
    try:
        plan = Plan.model_validate(filled)
    except ValidationError as invalid:
        errors += _sentences(invalid)
    if errors:
        return BrokenPlan(path, tuple(errors))
    return plan


class _Loader(Composer, yaml.CSafeLoader):
    """Refuses a key that is written twice: YAML itself would silently take the last.

    libyaml reads the text, five times as fast as Python: each task reads all plans. Python puts it together, since libyaml's binding
    ends the process where brackets are too deep.
    """

    def __init__(self, stream: str) -> None:
        yaml.CSafeLoader.__init__(self, stream)
        Composer.__init__(self)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for key, _ in node.value:
        if keys.count(key.value) > 1:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key.value!r} is written twice", key.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _fill(value: Any, environ: Mapping[str, str], path: str, errors: list[str]) -> Any:
    """Replace variables in every text value, as Compose does; a variable without value or default is an error."""
    if isinstance(value, dict):
        return {key: _fill(item, environ, f"{path}.{key}".lstrip("."), errors) for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, environ, f"{path}.{number}", errors) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        errors.append(f"{path}: has a NUL character, which neither a path nor an argument can hold; take it out")

    def replace(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        name = match["braced"] or match["plain"]
        if name is None:
            errors.append(f"{path}: a $ must be followed by a name; write $$ for a $ itself")
            return ""
        return _variable(name, match["how"] or "", match["value"] or "", environ, path, errors)

    return _VARIABLE.sub(replace, value)


def _variable(name: str, how: str, value: str, environ: Mapping[str, str], path: str, errors: list[str]) -> str:
    found = environ.get(name)
    usable = found is not None and (found != "" or not how.startswith(":"))
    if how.endswith("+"):
        return value if usable else ""
    if usable:
        return found or ""
    if how.endswith("-"):
        return value
    errors.append(
        f"{path}: the environment variable {name} is not set{f' ({value})' if value else ''}; set it, or write ${{{name}:-default}}"
    )
    return ""


def _sentences(invalid: ValidationError) -> list[str]:
    sentences = []
    places = [error["loc"] for error in invalid.errors()]
    for error in invalid.errors():
        path = ".".join(str(part) for part in error["loc"] if part != "[key]")
        if (
            error["type"] == "too_short"
            and error["input"]
            and any(other[: len(error["loc"])] == error["loc"] and other != error["loc"] for other in places)
        ):
            continue  # it is only short because of what is wrong inside it, which is told on its own
        if error["type"] == "extra_forbidden":
            known = _keys_at(error["loc"][:-1])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, 1)
            what = (
                f"is not a key of a plan here; did you mean {near[0]}?"
                if near
                else f"is not a key of a plan here; known are {', '.join(known)}"
            )
        elif error["type"] == "missing":
            what = "is missing; write it"
        else:
            what = error["msg"].removeprefix("Value error, ")
            what += "" if error["type"] == "value_error" else f" (found {_shown(error['input'])})"
        sentences.append(f"{path}: {what}" if path else what)
    return sentences


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
