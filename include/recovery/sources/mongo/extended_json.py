"""Definitions as Extended JSON that reads back exactly, whatever the owner of a database writes into them.

Extended JSON has no way to say data that looks like itself: ``{"$oid": "x"}`` in a view's ``$literal`` would come back as
something else, or not at all. Where that happens, the text has the value as BSON too, as base64.
"""

from __future__ import annotations

import json
from typing import Any

import bson
from bson import Binary, CodecOptions
from bson.codec_options import DatetimeConversion
from bson.json_util import JSONMode, JSONOptions, dumps, object_hook

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)
"""Reads every date that a server takes, those beyond Python's too."""
_CANONICAL = JSONOptions(json_mode=JSONMode.CANONICAL, datetime_conversion=DatetimeConversion.DATETIME_AUTO)
_EXACTLY = "bson"
_ANY = ""


def to_text(value: Any) -> str:
    """A BSON value, but no binary one, as text that :func:`from_text` reads back exactly."""
    text = dumps(value, json_options=_CANONICAL)
    return text if _reads_as(text, value) else dumps(Binary(bson.encode({_ANY: value})), json_options=_CANONICAL)


def from_text(text: object) -> Any:
    """Read what :func:`to_text` wrote."""
    value = _read(str(text))
    return bson.decode(value, CODEC)[_ANY] if isinstance(value, bytes) else value


def write_document(document: dict[str, Any]) -> str:
    """A document as canonical Extended JSON, as MongoDB's tools write it; in ``bson`` once more where this is not exact."""
    text = dumps(document, json_options=_CANONICAL)
    if _reads_as(text, document):
        return text
    return dumps({**document, _EXACTLY: Binary(bson.encode(document))}, json_options=_CANONICAL)


def read_document(text: str | bytes) -> Any:
    """Read what :func:`write_document` or one of MongoDB's tools wrote.

    Raises:
        ValueError: if it is none.
    """
    document = json.loads(text)
    exactly = document.get(_EXACTLY) if isinstance(document, dict) else None
    return bson.decode(_read(json.dumps(exactly)), CODEC) if exactly else _read(text)


def _read(text: str | bytes) -> Any:
    """Read Extended JSON. MongoDB's tools take ``$regex`` for the operator, and so does this; the driver makes a value of it."""

    def hook(document: dict[str, Any]) -> Any:
        return document if "$regex" in document else object_hook(document, _CANONICAL)

    return json.loads(text, object_hook=hook)


def _reads_as(text: str, value: Any) -> bool:
    try:
        return bson.encode({_ANY: _read(text)}) == bson.encode({_ANY: value})
    except Exception:  # noqa: BLE001 - each kind of data fails in its own way
        return False
