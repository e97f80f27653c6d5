"""Several things that all have to be done, whatever becomes of each."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recovery.common.errors import RecoveryError

log = logging.getLogger(__name__)


def _in_full(what: str, error: Exception) -> str:
    return f"{what}: {error}"


class Faults:
    """What failed of them. Whoever has done all of them looks here, and raises one error.

    Args:
        say: puts a fault into words: of what was done, and its error, which may be one that nobody has foreseen.
    """

    def __init__(self, say: Callable[[str, Exception], str] = _in_full) -> None:
        self._say = say
        self.sentences: list[str] = []
        """One for each that failed."""
        self.errors: list[Exception] = []
        """The same, as it was raised."""
        self.retryable = False
        """Whether a minute may help any of them."""

    def __bool__(self) -> bool:
        return bool(self.sentences)

    @contextmanager
    def noted(self, what: str) -> Iterator[None]:
        """Go on after a block that fails, also with what nobody has foreseen: the others still have to be done.

        Args:
            what: is done in the block.
        """
        try:
            yield
        except RecoveryError as error:
            self._note(what, error)
            self.retryable = self.retryable or error.retryable
            log.error("%s", self.sentences[-1])
        except Exception as error:
            self._note(what, error)
            log.exception("%s", self.sentences[-1])

    def _note(self, what: str, error: Exception) -> None:
        self.errors.append(error)
        self.sentences.append(self._say(what, error))
