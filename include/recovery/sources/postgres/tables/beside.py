"""Tables that are left beside the live ones: in schemas ``restored_<id>`` of the live database, with their owners and rights.

What is staged becomes that by a rename. Nothing that is live is looked at or changed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError, VerificationError
from recovery.common.units import human_size
from recovery.common.wording import counted, shortened
from recovery.packs.content_diff import Difference, compare
from recovery.sources.base import RestoreView
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.compare import alike, rows_of
from recovery.sources.postgres.definitions.names import quoted_name
from recovery.sources.postgres.definitions.reading import Readings, kept
from recovery.sources.postgres.dump.pg_dump import SET_ASIDE
from recovery.sources.postgres.exceptions import Unmade, accepted
from recovery.sources.postgres.tables import create, staged, swap
from recovery.sources.postgres.tables.contents import Chosen

log = logging.getLogger(__name__)

_NAMED = "^restored_[0-9a-f]{8}(_|$)"
_LEFT = """SELECT n.nspname, n.nspowner::regrole::text, count(c.oid), coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
    FROM pg_namespace n JOIN pg_roles o ON o.oid = n.nspowner
      LEFT JOIN pg_class c ON c.relnamespace = n.oid AND c.relkind = ANY ('{r,p,v,m,f}')
    WHERE n.nspname ~ %s AND (o.rolsuper OR o.rolname = current_user) GROUP BY 1, 2 ORDER BY 1"""
"""Schemas of this name, whose they are, and what lies in them. Schemas of others are left out, who can't have one of ours."""


def schema_of(part: Chosen, schema: str) -> str:
    """Where relations of a schema are left. Those of several schemas do not share one, since their names may be the same."""
    own = f"restored_{part.target.restore_id}"
    return own if len(part.schemas) == 1 else f"{own}_{schema}"


def is_left(server: Server, part: Chosen) -> bool:
    """Whether the tables were left already: a schema of that name alone may be another's, so nothing may be staged any more."""
    with server.connect(part.target.name) as live, translated_errors(f"Looking into {part.target.name}"):
        return _is_left(live, part)


def _is_left(live: Connection, part: Chosen) -> bool:
    there = {name for (name,) in live.execute("SELECT nspname FROM pg_namespace").fetchall()}
    ours = {name for name, *_ in live.execute(_LEFT, [_NAMED]).fetchall()}
    return all(schema_of(part, schema) in ours and staged.schema_of(part, schema) not in there for schema in part.schemas)


def refuse_taken(server: Server, part: Chosen) -> None:
    """Make sure that no schema has a name yet that is to be given.

    Raises:
        RestoreError: if one has.
    """
    with server.connect(part.target.name) as live, translated_errors(f"Looking into {part.target.name}", RestoreError):
        if names := taken(live, part):
            raise RestoreError(
                f"Database {part.target.name} has a schema {', '.join(names)} already: this restore left it there, or somebody made it.",
                "Look into it, then trigger a new restore.",
            )


def taken(live: Connection, part: Chosen) -> list[str]:
    """The schemas that have such a name, as SQL writes them."""
    query = "SELECT nspname FROM pg_namespace WHERE nspname = ANY (%s) ORDER BY 1"
    names = [schema_of(part, schema) for schema in part.schemas]
    return [quoted_name(name) for (name,) in live.execute(query, [names]).fetchall()]


def leave(server: Server, restore: RestoreView, parts: Sequence[Chosen]) -> list[str]:
    """See :meth:`recovery.sources.base.BesideRestorer.leave_beside`: no database before all of them are ready for it."""
    with ExitStack() as together:
        for part in parts:
            live = together.enter_context(server.connect(part.target.name))
            if not _is_left(live, part):
                staged.refuse_unstaged(live, part)
                together.enter_context(swap.at_once(server, live, f"Leaving the tables beside those of {part.target.name}"))
                _leave(live, part, kept(restore, part.target.saved), exceptions.kept(restore, part.target.saved))
    words = []
    for part in parts:
        with server.connect(part.target.name) as live:
            staged.drop_roles(live, part)
            words += _described(live, {schema_of(part, schema) for schema in part.schemas})
    return words


def _leave(live: Connection, part: Chosen, readings: Readings, unmade: Collection[Unmade]) -> None:
    """Give what is staged its owners, rights and last names, and compare it again: from now on nobody can write to it unseen."""
    differences = staged.left_by_load(live, part)
    names = staged.names_of(live, part, [name for kind, name in part.objects if kind == "statistics" or name in part.names])
    with _at_home(live, part):
        create.hand_over(live, part, names)
    differences += _differences(live, part, names, readings, unmade)
    if differences:
        raise VerificationError(
            f"The tables of {part.target.name} are no longer the set's: {shortened(differences, between='; ')}.",
            "Nothing was changed. Find out who changed what is staged, then trigger a new restore.",
        )
    for schema in part.schemas:
        old, new = staged.schema_of(part, schema), schema_of(part, schema)
        live.execute(SQL("ALTER SCHEMA {} RENAME TO {}").format(Identifier(old), Identifier(new)))


@contextmanager
def _at_home(live: Connection, part: Chosen) -> Iterator[None]:
    """Let the owners have something in the staged schemas, without which only a superuser can give it to them."""
    schemas = SQL(", ").join(Identifier(staged.schema_of(part, schema)) for schema in part.schemas)
    owners = SQL(", ").join(Identifier(owner) for owner in sorted(part.owners - {live.info.user}))
    if owners.as_string(live):
        live.execute(SQL("GRANT USAGE, CREATE ON SCHEMA {} TO {}").format(schemas, owners))
    yield
    if owners.as_string(live):
        live.execute(SQL("REVOKE ALL ON SCHEMA {} FROM {}").format(schemas, owners))


def _differences(live: Connection, part: Chosen, names: dict[str, str], readings: Readings, unmade: Collection[Unmade]) -> list[Difference]:
    found = staged.definitions(live, part)
    for name, facts in create.contents(live, part, names).items():
        found["table", name] |= facts
    expected, found = alike(part.uncrossed, found, part.target.major, readings)
    expected = accepted(expected, found, unmade, part.target.snapshot["codec"])
    return compare(rows_of(expected), rows_of(found))


def lying(server: Server, named: Collection[str], restores: Collection[str]) -> list[str]:
    """What restores left beside, in sentences.

    Args:
        server: where to look.
        named: databases, by their names there; none for all.
        restores: ids; a schema of another may be somebody's own.
    """
    words = []
    for database, usable in server.databases().items():
        if usable and not SET_ASIDE.search(database) and (not named or database in named):
            with server.connect(database) as connection, translated_errors(f"Listing the schemas of {database}"):
                names = [name for name, *_ in connection.execute(_LEFT, [_NAMED]).fetchall()]
                words += _described(connection, [name for name in names if name.split("_")[1] in restores])
    return words


def _described(connection: Connection, only: Collection[str]) -> list[str]:
    database, words = quoted_name(connection.info.dbname), []
    for name, owner, tables, size in connection.execute(_LEFT, [_NAMED]).fetchall():
        if name in only:
            schema = quoted_name(name)
            words.append(
                f"Schema {schema} of database {database} has {counted(tables, 'relation')} of {human_size(size)}, and stays until somebody"
                f" drops it: DROP SCHEMA {schema} CASCADE. Until somebody runs GRANT USAGE ON SCHEMA {schema} TO a role, only {owner} and"
                " superusers can use it."
            )
    return words
