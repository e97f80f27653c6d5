"""What the values of a plan file are made of: names, durations, sizes, paths; each with its check and its words."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pyrage
from croniter import CroniterBadDateError, croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
)

from recovery.common.units import checked_size, parse_duration, parse_size

_JSON_DURATION = {"type": "string", "examples": ["90s", "30m", "24h", "7d", "1d12h"]}
_CRON = re.compile(r"(?!.*\bR\b)[\w *,/#?-]{9,100}", re.ASCII | re.IGNORECASE)
"""Airflow describes a schedule in a thousand characters at most."""
_DEEPEST = 40
_MOST_ANY = 5
_BUCKET = r"^[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]$"
_PREFIX = r"^([A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*)?$"
_LONGEST_PREFIX = 500
_JSON_SIZE = {"type": ["string", "integer"], "examples": ["512MiB", "1GiB", "20GB"]}


def _duration(value: Any) -> Any:
    return parse_duration(value) if isinstance(value, str) else _only(value, timedelta, "a duration such as 24h")


def _command(argv: tuple[str, ...]) -> tuple[str, ...]:
    if "/" in argv[0] and not argv[0].startswith("/"):
        raise ValueError(f"{argv[0]!r} is a relative path; write an absolute one, or a name that PATH has")
    return argv


def _size(value: Any) -> Any:
    return parse_size(value) if isinstance(value, str) else checked_size(_only(value, int, "a size such as 1GiB"))


def _only(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"write {what}")
    return value


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} must be an absolute path")
    if len(path.parts) > _DEEPEST:
        raise ValueError(f"{str(path)[:60]}… must not be more than {_DEEPEST} folders deep")
    if ".." in path.parts:
        raise ValueError(f"{str(path)!r} must not contain '..'")
    return path


def _pattern(text: str) -> str:
    if text.count("**") > _MOST_ANY:
        raise ValueError(f"{text!r} has more than {_MOST_ANY} times **; write a shorter pattern")
    return text


def cron(text: str) -> str:
    """Check a cron expression of five fields, without croniter's ``R``, a moment by chance, which is another in each process."""
    if not _CRON.fullmatch(text) or len(text.split()) != 5 or not croniter.is_valid(text):
        raise ValueError(f"{text!r} is not a cron expression of five fields, such as '0 1 * * *'")
    try:
        croniter(text).get_next()
    except CroniterBadDateError:
        raise ValueError(f"{text!r} never comes: no such day is in the calendar") from None
    return text


def _bucket(text: str) -> str:
    if not re.fullmatch(_BUCKET, text):
        raise ValueError(
            f"{text[:80]!r} is not the name of a bucket: write 3 to 63 letters, digits, '.', '-' and '_'; its address belongs into the"
            " Connection, a folder in it into prefix"
        )
    return text


def _prefix(text: str) -> str:
    """Servers and clients resolve ``.`` and ``..``, each in its own way. A key may have 1024 bytes."""
    if not re.fullmatch(_PREFIX, text) or {".", ".."} & set(text.split("/")) or len(text) > _LONGEST_PREFIX:
        raise ValueError(
            f"{text[:80]!r} is not a prefix: write up to {_LONGEST_PREFIX} letters, digits, '.', '-', '_', and '/' between parts, such as"
            " prod/sets; no part is '.' or '..'"
        )
    return text


def timezone_name(text: str) -> str:
    """Check the name of a timezone."""
    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # OSError: of folders, such as Europe, and of long names
        raise ValueError(f"{text!r} is not a timezone; write for example UTC or Europe/Berlin") from None
    return text


def recipient(text: str) -> str:
    """Check an age public key."""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise ValueError(f"{text!r} is not an age recipient; it begins with age1, from `recovery keys create`") from None
    return text


Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$", description="Lower-case letters, digits, - and _.")]
Pattern = Annotated[str, Field(min_length=1, max_length=250, description="A shell pattern of names or paths."), AfterValidator(_pattern)]
ConnectionId = Annotated[str, Field(min_length=1, max_length=250, description="Id of an Airflow Connection.")]
AirflowName = Annotated[str, Field(min_length=1, max_length=250, description="Name of a queue or pool of Airflow.")]
Bucket = Annotated[str, AfterValidator(_bucket), Field(json_schema_extra={"pattern": _BUCKET})]
Prefix = Annotated[str, AfterValidator(_prefix), Field(json_schema_extra={"pattern": _PREFIX, "maxLength": _LONGEST_PREFIX})]
AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Folders = tuple[AbsolutePath, ...]
FoldersOrContainer = Folders | Literal["container"]
Duration = Annotated[
    timedelta,
    BeforeValidator(_duration, json_schema_input_type=str),
    PlainSerializer(lambda span: f"{int(span.total_seconds())}s"),
    Field(json_schema_extra=_JSON_DURATION),
]
Size = Annotated[int, BeforeValidator(_size, json_schema_input_type=str | int), Field(json_schema_extra=_JSON_SIZE)]
Argv = Annotated[
    tuple[str, ...],
    Field(min_length=1, description="A command and its arguments; no shell reads them. It starts in the folder /."),
    AfterValidator(_command),
]
Level = Literal["stored", "decoded", "restored"]
Gate = Literal["plan", "cutover", "accept"]
"""The questions of a restore, in their order."""
Mode = Literal["hot", "cold"]
"""Of a backup: whether the services run while it reads the sources."""
Method = Literal["swap", "in place", "beside"]
"""Of a restore: beside the live data, and then cut over; dropped and loaded, after a safety backup; beside the live data, to stay there."""
LIVE = "live"
"""The target of a restore that is the system itself."""
SCRATCH = "scratch"
"""The target that a drill makes for itself. No target of a plan has one of these names."""


class Part(BaseModel):
    """A part of a plan: nothing unknown in it, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


Moment = Literal["before_backup", "after_backup", "after_failed_backup", "before_restore", "after_restore"]
"""When hooks are done."""

SourceId = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*\.[a-z][a-z0-9_-]{0,39}$", description="<kind>.<name>")]
DatabaseName = Annotated[str, Field(min_length=1, max_length=63)]


def extended_json(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Check that MongoDB can be told a value, dates and ids in it as extended JSON writes them."""
    if (place := _unsaid(value)) is not None:
        where = f" at {'.'.join(map(str, place))}" if place else ""
        raise ValueError(
            f"this is not MongoDB's extended JSON{where}: write dates as {{$date: '2026-11-23T01:00:00Z'}}, ids as {{$oid: 24 hexadecimal"
            " digits}, numbers of at most 64 bits"
        )
    return value


def _unsaid(value: JsonValue, place: tuple[str | int, ...] = ()) -> tuple[str | int, ...] | None:
    """Where the innermost part is that extended JSON does not know; None if it knows all of them."""
    try:
        from bson import encode, json_util  # takes its time, and few plans need it
    except ModuleNotFoundError:
        raise ValueError("extended JSON needs the Python package pymongo: pip install 'openmanus-recovery[mongo]'") from None
    try:
        encode({"value": json_util.loads(json.dumps(value))})
    except Exception:  # noqa: BLE001 - each kind of value fails in its own way
        parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        return next((found for key, part in parts if (found := _unsaid(part, (*place, key))) is not None), place)
    return None


ExtendedJson = Annotated[dict[str, JsonValue], AfterValidator(extended_json)]


def exactly_one(part: Part, *names: str) -> None:
    """Check that one of several keys is written, and no other."""
    given = [name for name in names if getattr(part, name) is not None]
    if len(given) != 1:
        raise ValueError(f"write exactly one of {', '.join(names)}" + (f", not {' and '.join(given)}" if given else ""))
