"""PostgreSQL: as a source, as a target, in hooks and checks."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from recovery.plan.source_settings import Kind, Question, ServerSettings, ServerTarget, Statement


class PostgresSettings(ServerSettings):
    """A PostgreSQL server."""

    family: ClassVar[str] = "postgres"

    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Tables that are dumped and restored at the same time."""
    schema_sql: bool = False
    """Also keep a schema-only SQL file of each database."""


class PostgresTarget(ServerTarget):
    """A PostgreSQL server to restore to."""


def _role(name: str) -> str:
    if name.startswith("pg_"):
        raise ValueError(f"{name!r} is a role of the server itself; write the name of a role that has what the SQL needs")
    return name


RoleName = Annotated[str, Field(min_length=1, max_length=63), AfterValidator(_role)]


class SqlStatement(Statement):
    """SQL for a database of a source."""

    kind: ClassVar[str] = "postgres"

    statement: Annotated[str, Field(min_length=1)]
    role: Annotated[RoleName | None, Field(alias="as")] = None
    """Whose rights it needs; default: those of the database's owner. No superuser."""

    @property
    def title(self) -> str:
        """See :attr:`Statement.title`."""
        return f"SQL in {self.database} of {self.source}"


class SqlQuestion(Question):
    """A query of one value."""

    kind: ClassVar[str] = "postgres"

    query: Annotated[str, Field(min_length=1)]
    role: Annotated[RoleName | None, Field(alias="as")] = None
    """Whose rights it needs; default: those of the database's owner. No superuser."""

    @property
    def title(self) -> str:
        """See :attr:`Question.title`."""
        return f"a query in {self.database} of {self.source}"


KIND = Kind(
    settings=PostgresSettings,
    target=PostgresTarget,
    restore_order=20,
    parts="Databases, schemas or tables, one a line: sales, sales.public, sales.public.orders; odd names in double quotes.",
    tools=True,
    query="sql",
    statement=SqlStatement,
    question=SqlQuestion,
)
