"""What a set has of named files and folders, read back."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from tarfile import TarInfo
from typing import IO

from recovery.packs.content_index import Row
from recovery.sources.trees import entries
from recovery.sources.trees.reader import TreeReader
from recovery.sources.trees.settings_file import LARGEST, is_settings_file, key_digests


class ConfigReader(TreeReader):
    """Reads archives of files, and in them the keys of settings."""

    def read_pack(self, artifact: str, members: Iterable[tuple[TarInfo, IO[bytes] | None]]) -> Iterator[Row]:
        """As for files, and a row ``("keys", path, {key: digest})`` for every file of settings."""
        keys: list[Row] = []

        def noted() -> Iterator[tuple[TarInfo, IO[bytes] | None]]:
            for info, data in members:
                if data is not None and info.size <= LARGEST and is_settings_file(info.name):
                    content = data.read()
                    keys.append(("keys", info.name, key_digests(info.name, content)))
                    data = io.BytesIO(content)
                yield info, data

        yield from entries.of_members(noted())
        yield from keys
