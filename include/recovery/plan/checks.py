"""Checks: what a healthy system answers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, create_model, field_validator, model_validator

from recovery.plan.field_types import Argv, Duration, Part, exactly_one
from recovery.plan.kinds import KINDS
from recovery.plan.source_settings import Question

_QUESTIONS = {kind.query: kind.question for kind in KINDS.values() if kind.question}


class HttpQuestion(Part):
    """An address that has to answer."""

    url: Annotated[str, Field(pattern=r"^https?://")]
    status: Annotated[int, Field(ge=100, le=599)] = 200
    """The status that is right."""
    fields: dict[str, JsonValue] = {}
    """Values that fields of the JSON answer must have, by dotted path: ``{database.state: ok, "nodes.0.up": true}``."""

    @field_validator("url")
    @classmethod
    def _whole(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            whole = bool(parts.hostname) and parts.port != 0
        except ValueError:
            whole = False
        if not whole:
            raise ValueError("write an address with a host, such as https://app.example.org/health")
        return url


class _Check(Part):
    """What a healthy system answers; asked after a restore, and what asks a source after a drill too."""

    name: str = ""
    """For people; default: what is asked."""
    argv: Argv | None = None
    http: HttpQuestion | None = None
    timeout: Duration = timedelta(seconds=30)
    """How long each try may take."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """How often it is tried again before it counts as failed."""
    pause: Duration = timedelta(seconds=5)
    """Between two tries."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        exactly_one(self, "argv", "http", *_QUESTIONS)
        return self

    @property
    def question(self) -> Question | None:
        """What a source is asked; None for a check of the system as a whole."""
        return next((found for key in _QUESTIONS if (found := getattr(self, key))), None)

    @property
    def source(self) -> str | None:
        """The source that it asks; None for one that asks the system as a whole, which only makes sense where that runs."""
        return self.question.source if self.question else None

    @property
    def title(self) -> str:
        """Its name, or what it asks, without what may be secret: arguments of a command, login and query of an address."""
        if self.name:
            return self.name
        if self.question:
            return self.question.title
        if self.http:
            url = urlsplit(self.http.url)
            return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
        assert self.argv
        return PurePath(self.argv[0]).name


if TYPE_CHECKING:
    Check = _Check
else:  # with a key for each kind that can be asked
    Check = create_model("Check", __base__=_Check, __doc__=_Check.__doc__, **{key: (kind | None, None) for key, kind in _QUESTIONS.items()})
