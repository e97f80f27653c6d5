"""PostgreSQL: as a source, as a target, in hooks and checks."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from recovery.plan.field_types import FoldersOrContainer
from recovery.plan.name_patterns import names_in
from recovery.plan.source_settings import Kind, Question, ServerSettings, ServerTarget, Statement


def _inside(text: str) -> str:
    if len(names_in(text)) not in {2, 3}:
        raise ValueError(
            f"{text!r} must be written database.schema or database.schema.table, where * stands for any characters; a name with a dot, a"
            " quote or a star in double quotes"
        )
    return text


Inside = Annotated[
    str, Field(min_length=1, max_length=250, description="A pattern: database.schema or database.schema.table."), AfterValidator(_inside)
]


class PostgresSettings(ServerSettings):
    """A PostgreSQL server."""

    family: ClassVar[str] = "postgres"

    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """Tables that are dumped and restored at the same time."""
    schema_sql: bool = False
    """Also keep a schema-only SQL file of each database."""
    exclude: tuple[Inside, ...] = ()
    """Schemas and tables that are not backed up at all."""
    exclude_rows: tuple[Inside, ...] = ()
    """Tables, or all of a schema, whose definition is backed up, and not their rows."""

    @model_validator(mode="after")
    def _excludes_have_databases(self) -> Self:
        for text in (*self.exclude, *self.exclude_rows):
            database = names_in(text)[0]
            if self.databases and not any(map(database.pattern.fullmatch, self.databases)):
                raise ValueError(f"exclude: the database of {text!r} is not among databases")
        return self


class PostgresTarget(ServerTarget):
    """A PostgreSQL server to restore to."""

    owners: Literal["keep", "mine"] = "keep"
    """Who owns what is restored: the set's roles, or the Connection's user. Then no role of the set is needed there."""
    grants: Literal["keep", "none"] = "keep"
    """Who has rights on it: those who have some in the set, or nobody but the owners."""

    @model_validator(mode="after")
    def _mine_without_grants(self) -> Self:
        if self.owners == "mine" and self.grants != "none":
            raise ValueError("owners: mine needs grants: none, since rights are given to roles of the set")
        return self


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
    tools=FoldersOrContainer,
    query="sql",
    statement=SqlStatement,
    question=SqlQuestion,
)
