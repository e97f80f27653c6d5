"""Names of a set's files, and its id."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime

from recovery.plan.source_id import kind_of, name_of

MANIFEST_FILE = "manifest.json"
SIGNATURE_FILE = "manifest.json.sig"
PACKS_FILE = "packs.jsonl"
CONTENTS_FILE = "contents.jsonl.zst.age"
INSTRUCTIONS_FILE = "RESTORE.md"
RECORDS_FOLDER = "records"


_SET_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{4}")


def new_set_id(started: datetime, run_id: str) -> str:
    """A set's id: the moment for which the run is scheduled, in UTC, and four digits of its run id.

    The same run always gets the same. Sets are not ordered by it, but by when they were made.
    """
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%SZ}-{hashlib.sha256(run_id.encode('utf-8', 'backslashreplace')).hexdigest()[:4]}"


def is_set_id(text: str) -> bool:
    """Whether it is written like a set's id: ``20261123T010000Z-4f2a``."""
    return _SET_ID.fullmatch(text) is not None


def pack_path(source_id: str, file: str) -> str:
    """Where a pack of ``<kind>.<name>`` lies below its set: ``<kind>/<name>/<file>``."""
    return f"{kind_of(source_id)}/{name_of(source_id)}/{file}"
