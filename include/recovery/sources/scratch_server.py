"""What the temporary server of a drill does, for the kinds of source that need one."""

from __future__ import annotations

from collections.abc import Mapping
from signal import Signals
from typing import Protocol

from recovery.common.connections import Endpoint
from recovery.runners.isolation import Isolation
from recovery.runners.local_server import ServerFolders
from recovery.sources.base import Access


class ScratchServer(Protocol):
    """The temporary server that a drill makes for a kind of source, of what is installed on the worker."""

    @property
    def endings(self) -> Mapping[str, Signals]:
        """The programs that it consists of, and how each is ended."""

    def start(self, there: ServerFolders, versions: Mapping[str, str], access: Access, isolation: Isolation) -> None:
        """Make and start it.

        Args:
            there: its folders, which are not there yet.
            versions: of the server that the set comes from, and of the tools.
            access: the runner and the tools.
            isolation: what keeps it apart from the worker.

        Raises:
            RestoreError: if it is not installed, or does not start.
        """

    def endpoint(self, there: ServerFolders) -> Endpoint:
        """How it is reached."""
