"""Durations, sizes and moments as people write and read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from recovery.common.wording import escaped

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_BYTES = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base ** (power + 1) for power, prefix in enumerate("KMGT") for suffix, base in (("B", 1000), ("iB", 1024))
}


def parse_duration(text: str) -> timedelta:
    """Read ``90s``, ``30m``, ``24h``, ``7d``, ``2w`` or a sum such as ``1d12h``.

    Raises:
        ValueError: if it is anything else, or zero.
    """
    if not re.fullmatch(r"([0-9]{1,12}[smhdw]){1,9}", text):
        raise ValueError(f"{text!r} is not a duration; write for example 90s, 30m, 24h, 7d or 1d12h")
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))
    if not 0 < seconds <= 100 * 366 * 86400:
        raise ValueError(f"{text!r} must be longer than nothing and shorter than a hundred years")
    return timedelta(seconds=seconds)


def parse_size(text: str) -> int:
    """Read ``512MiB``, ``1GiB``, ``20GB`` or a plain number of bytes; the result is in bytes.

    Raises:
        ValueError: if it is anything else, or zero.
    """
    match = re.fullmatch(r"([0-9]{1,15}) *([KMGT]i?B|B)?", text)
    if not match:
        raise ValueError(f"{text!r} is not a size; write for example 512MiB, 1GiB or 20GB")
    return checked_size(int(match[1]) * int(_BYTES[match[2] or ""]))


def checked_size(size: int) -> int:
    """A number of bytes, which file systems and databases can count.

    Raises:
        ValueError: if it is less than one, or more than 63 bits can hold.
    """
    if not 0 < size < 1 << 63:
        raise ValueError("a size is larger than nothing and smaller than 8 EiB; write for example 512MiB, 1GiB or 20GB")
    return size


def parse_moment(text: str) -> datetime:
    """Read an ISO 8601 moment that says its offset, such as ``2026-11-23T01:00:00+02:00``; the result is in UTC.

    Raises:
        ValueError: if it is no moment, or says no offset: a local time is a guess.
    """
    try:
        moment = datetime.fromisoformat(text)
        universal = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a moment; write for example 2026-11-23T01:00:00+01:00") from None
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} says no offset; write for example {moment.isoformat()}+01:00, or {moment.isoformat()}Z for UTC")
    return universal


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def iso(moment: datetime) -> str:
    """A moment as ``2026-11-23T01:00:00.123456Z``."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def human_moment(moment: datetime, *, up: bool = False) -> str:
    """A moment as ``2026-11-23 01:00:00Z``, to the full second before it, or ``up`` to the one after it; :func:`parse_moment` reads it."""
    whole = moment.astimezone(UTC).replace(microsecond=0)
    return f"{whole + timedelta(seconds=1) if up and moment.microsecond else whole:%Y-%m-%d %H:%M:%S}Z"


_LONGEST_TEXT = 4000


def plain_markdown(text: str) -> str:
    r"""A text on one line whose words mean nothing to Markdown: names and notes are shown as they are, a line feed as ``\n``.

    So a name makes no link, no line of its own, no cell of a table, and no other reading order. Names may have megabytes, so a
    long text is cut.
    """
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}…"
    return re.sub(r"__|[*\[\]<>`\\|~&]", lambda match: "".join(f"\\{sign}" for sign in match[0]), escaped(text))


def human_size(size: float) -> str:
    """Bytes as ``1.3 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def human_duration(seconds: float | timedelta) -> str:
    """Seconds as ``0.4 s``, ``12 s``, ``3 min 20 s``, ``2 h 5 min`` or ``3 d 4 h``."""
    total = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if total < 10:
        return f"{total:.1f} s"
    whole = round(total)
    for name, size, below, below_size in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if whole >= size:
            rest = whole % size // below_size
            return f"{whole // size} {name} {rest} {below}" if rest else f"{whole // size} {name}"
    return f"{whole} s"
