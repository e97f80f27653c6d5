"""JSON that others wrote, or may have changed: read whole and as it is meant, or refused in one way."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text, as RFC 8259 has it.

    Python's own reader takes more than that: the last of two values with one key, and ``NaN``.

    Raises:
        ValueError: whatever is wrong with it. The message is a sentence about the text.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key is written twice in it")
    return found


def _finite(digits: str) -> float:
    if math.isinf(number := float(digits)):
        raise ValueError("a number in it is too large")
    return number


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_finite, parse_constant=_no_number)
