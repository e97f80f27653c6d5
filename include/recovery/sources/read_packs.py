"""Read a source's packs back, whole."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from recovery.common.errors import StagingError
from recovery.packs.content_index import Row
from recovery.packs.pack import Identity, Pack, open_pack, read_members
from recovery.packs.tar_reader import damaged
from recovery.sources.set_reader import SetReader

log = logging.getLogger(__name__)


def _packed(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise StagingError(f"The pack {path} is gone from staging.", "Look for who removed it; start a new run.") from None


def check_pack(path: Path, pack: Pack) -> None:
    """Check a stored pack's SHA-256, without opening it.

    Raises:
        ArtifactError: if it is not what its record says.
        StagingError: if it is missing.
    """
    with _packed(path) as source:
        found = hashlib.file_digest(source, "sha256").hexdigest()
    if found != pack.sha256:
        raise damaged(f"{pack.file} has SHA-256 {found}, recorded {pack.sha256}")


def read_packs(reader: SetReader, artifact: str, folder: Path, packs: Iterable[Pack], identity: Identity) -> Iterator[Row]:
    """What an artifact's packs hold, pack by pack.

    Raises:
        ArtifactError: if one is damaged.
    """
    for pack in packs:
        with _packed(folder / pack.file) as source, open_pack(source, pack, [identity]) as stream:
            yield from reader.read_pack(artifact, read_members(stream))
        log.info("%s: read and found whole", pack.file)
