"""Loading PostgreSQL databases from a set: beside the live ones, or under a live name."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tarfile import TarInfo

import psycopg
from psycopg.sql import SQL, Composed, Identifier

from recovery.common.errors import ArtifactError, RestoreError
from recovery.common.files import empty_folder
from recovery.common.progress import telling
from recovery.common.units import human_size
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.accounts import loaders, server_globals
from recovery.sources.postgres.accounts.loaders import EVERYONE, OURS, Loaders
from recovery.sources.postgres.accounts.roles import create_roles, roles
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases import inheritance, ownership, privileged
from recovery.sources.postgres.databases.custody import close, undisturbed
from recovery.sources.postgres.databases.entries import Entry, Step, Steps, in_steps, read_entries
from recovery.sources.postgres.databases.second_try import SecondTry
from recovery.sources.postgres.definitions import catalog, reading
from recovery.sources.postgres.definitions.reading import Definitions, Place
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.targets import Objects, Target, expected_objects

log = logging.getLogger(__name__)

_HAS_ROWS = re.compile(r"\d+; \d+ \d+ (?:TABLE DATA|BLOBS) ")
"""Entries that are read from files of their own."""


def stage(server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target], *, with_rows: bool = True) -> None:
    """Restore databases beside the live ones, or all of them but their rows; see :meth:`recovery.sources.base.Restorer.stage`."""
    _ = server.bin  # looked for before anything is changed
    with undisturbed(server, [target.stage for target in chosen]) as connection:
        for target in chosen:
            drop(connection, target.stage)
        create_roles(connection, restore, chosen)
    for target in chosen:
        load(server, jobs, restore, target, with_rows=with_rows)


def drop(connection: Connection, database: str) -> None:
    """Drop a database, if it is there, and end whoever uses it; and the roles that loaded it."""
    with translated_errors(f"Dropping database {database}", RestoreError):
        if connection.execute("SELECT FROM pg_database WHERE datname = %s AND datistemplate", [database]).fetchone() is not None:
            connection.execute(SQL("ALTER DATABASE {} IS_TEMPLATE false").format(Identifier(database)))
        statement = SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(database))
        try:
            connection.execute(statement)
        except psycopg.errors.InsufficientPrivilege:  # to end a session
            close(connection, [database])
            connection.execute(statement)
    loaders.drop(connection, database)


@dataclass(frozen=True)
class Dump:
    """An unpacked dump, and what is known of the database that it was made of."""

    folder: Path
    lines: Sequence[str]
    """What is restored, as the dump's table of contents lists it."""
    objects: Objects
    roles: Mapping[str, Facts]
    """The roles of its server: who is a member of whom, who is a superuser."""


def load(
    server: Server, jobs: int, restore: RestoreView, target: Target, unpacked: Callable[[], None] | None = None, *, with_rows: bool = True
) -> None:
    """Create a target's database and restore into it: all that is inside, and not yet its owner, rights and settings.

    A database of that name is dropped, once the set's is unpacked.

    Args:
        server: where to.
        jobs: how many work side by side.
        restore: whose set it is.
        target: the database.
        unpacked: done in between.
        with_rows: and not the definitions alone.

    Raises:
        RestoreError: if the server refuses.
        ToolError: if pg_restore fails.
    """
    folder = unpack(server, restore, target, None if with_rows else _is_toc)
    if unpacked:
        unpacked()
    create_database(server, restore, target)
    lines = [line for line in archive.entries(server.runner, server.bin, folder) if with_rows or not _HAS_ROWS.match(line)]
    dump = Dump(folder, lines, expected_objects(restore, target), roles(restore))
    fill(server, jobs, target, dump, restore)
    shutil.rmtree(folder)


def _is_toc(member: TarInfo) -> bool:
    return member.name.endswith("toc.dat")


def unpack(server: Server, restore: RestoreView, target: Target, member: Callable[[TarInfo], bool] | None = None) -> Path:
    """Unpack the dump of a target's database, or only some of its files; where to."""
    log.info("restoring with the client tools in %s", server.bin)  # looked for before anything is changed
    folder = restore.folder / ("in place" if target.in_place else "database")  # what is rehearsed in between must not take its place
    empty_folder(folder)
    log.info("unpacking database %s", target.saved)
    restore.unpack(target.artifact, folder, member)
    return folder


def fill(server: Server, jobs: int, target: Target, dump: Dump, restore: RestoreView | None = None, *, whole: bool = True) -> SecondTry:
    """Restore a dump into a target's database, which is there and empty.

    Args:
        server: where it is.
        jobs: how many work side by side.
        target: the database.
        dump: what to restore.
        restore: keeps what the server makes of definitions whose text is not the set's, and what it does not make.
        whole: give everything to its owners. What is not whole stays with the roles that loaded it.

    Returns:
        What could not be made, and these roles. They can't log in any more, and are dropped if everything was given away.

    Raises:
        RestoreError: if the server refuses.
        ToolError: if pg_restore fails.
    """
    entries = read(dump.lines, target, dump.objects)
    dump = replace(dump, roles=loaders.with_database_owner(dump.roles, target.facts["owner"]))
    with server.maintenance([target.loaded]) as connection:
        owners = {entry.owner for entry in entries if entry.owner}
        families = inheritance.families(dump.objects)
        loading = loaders.create(connection, target.loaded, owners, dump.roles, dump.objects.values(), families)
        loading = replace(loading, terms=target.terms)
        loaders.try_login(server, target.loaded, loading)
        log.info("restoring database %s as %s with %d jobs", target.saved, target.loaded, jobs)
        with server.connect(target.loaded, check_function_bodies="off") as inside, telling(partial(_so_far, connection, target)):
            refusal, to_the_end = partial(_refusal, target, whole), restore is not None and restore.rolling_back
            second = SecondTry(server, inside, loading, target, dump.folder, dump.roles, refusal, to_the_end)
            load = _Load(server, inside, loading, target, jobs, dump, in_steps(entries), second)
            load.all()
            if load.steps.rows:
                load.analyze()
            if restore:
                reading.keep(restore, target.saved, dict(load.readings()))
                exceptions.keep(restore, target, second.unmade)
            loaders.disarm(connection, loading)
            if whole:
                load.hand_over()
        if whole:
            loaders.drop(connection, target.loaded)
    second.refuse_lost()
    return second


def _refusal(target: Target, whole: bool, lost: str) -> RestoreError:
    if not whole:
        what = f"The definitions that the tables of {target.saved} need can't be made anew: {lost}."
        return RestoreError(what, "Mend what is named, or restore the whole database.")
    return RestoreError(
        f"Database {target.saved} can't be loaded whole. {lost}",
        "The set has all of its rows: RESTORE.md in it says how to get them out by hand. Mend the definition at the source, and"
        " back up again.",
    )


def read(lines: Iterable[str], target: Target, objects: Objects) -> list[Entry]:
    """The entries of a dump's table of contents, each with whom it is restored as.

    Raises:
        ArtifactError: if one is nobody's.
    """
    codec = str(target.snapshot["codec"])
    ours, others = privileged.entries_of(objects, codec), inheritance.attaching(objects, codec) | ownership.with_tables(objects, codec)
    owning = {str(facts["owner"]) for key, facts in objects.items() if facts.get("owner") and key != ("schema", "public")}  # not made
    entries = list(read_entries(lines, {*target.snapshot["roles"], *owning}, codec, ours, others))
    for entry in entries:
        if entry.loader == EVERYONE and not entry.what.startswith("BLOB"):
            raise ArtifactError(
                f"The dump's table of contents has an entry that is nobody's: {entry.what} {entry.name}.",
                "Don't restore this set before you know who made it.",
            )
    return entries


@dataclass(frozen=True)
class _Load:
    """One database that is being loaded."""

    server: Server
    inside: Connection
    """To the database, as ourselves."""
    loaders: Loaders
    target: Target
    jobs: int
    dump: Dump
    steps: Steps
    second: SecondTry

    def all(self) -> None:
        """Load everything but rights, event triggers and statistics."""
        self._do(self.steps.schemas)
        with ownership.ours_meanwhile(self.inside, self._extension_schemas()):
            self._do(self.steps.extensions)
        ownership.open_schemas(self.inside, self.loaders, self.dump.objects)
        for step in self.steps.definitions:
            self._define(step)
            if {entry.what for entry in step.entries} & {"FOREIGN DATA WRAPPER", "SERVER"}:
                ownership.open_schemas(self.inside, self.loaders, self.dump.objects)
        self._give_rights()
        for step in self.steps.rows:
            self._define(step)
        self.second.load_rows()
        for step in self.steps.rest:
            self._define(step)
            if {entry.what for entry in step.entries} & {"VIEW", "MATERIALIZED VIEW"}:  # what depends on keys comes after the rows
                self._give_rights()
        objects = exceptions.still_valid(self.dump.objects, self.second.unmade, str(self.target.snapshot["codec"]))
        inheritance.validate(self.inside, self.loaders, objects, self._execute)

    def hand_over(self) -> None:
        """Give everything to the set's owners, then the rights on it to others; event triggers come last."""
        ownership.hand_over_schemas(self.inside, self.loaders)
        terms = self.loaders.terms
        ownership.give_ours(self.inside, self.dump.objects, self.dump.roles, terms)
        if not terms.heir:  # a new owner has to be allowed to put something into a schema of another
            self._do(self.steps.schema_rights)
        ownership.hand_over(self.inside, self.loaders, self.dump.objects)
        if terms.rights:
            self._do(self.steps.rights)
        self._do(self.steps.event_triggers)
        ownership.give_ours(self.inside, self.dump.objects, self.dump.roles, terms)
        if not terms.rights:
            ownership.leave_rights_to_owners(self.inside)

    def readings(self) -> Iterator[tuple[Place, list[str]]]:
        """What the server makes of the set's definitions that it shows otherwise, each with the rights of its owner."""
        found = {(kind, name): facts for kind, name, facts in catalog.object_rows(self.inside)}
        definitions = Definitions(self.dump.objects, found)
        for owner, texts in definitions.differing().items():
            if owner in self.loaders.roles:
                with self.loaders.server(self.server, owner).connect(self.target.loaded) as connection:
                    for place, text in texts:
                        if shown := definitions.readings(connection, place, text):
                            yield place, shown

    def _give_rights(self) -> None:
        ownership.give_rights(self.inside, self.loaders, self.dump.objects, self.dump.roles)

    def _define(self, step: Step) -> None:
        if step.loader in self.loaders.families:
            codec = str(self.target.snapshot["codec"])
            inheritance.attach(self.inside, self.loaders, step, self.dump.objects, codec, lambda part: self._do([part]), self._execute)
        else:
            self._do([step])
        if {entry.what for entry in step.entries} & {"FUNCTION", "PROCEDURE", "AGGREGATE"}:
            ownership.give_calls(self.inside, self.loaders, self.dump.objects, self.dump.roles)

    def _do(self, steps: Iterable[Step]) -> None:
        for step in steps:
            if step.loader == OURS:
                codec = str(self.target.snapshot["codec"])
                with self._ours(step) as inside:
                    privileged.make(self.server, inside, step, self.dump.folder, self.loaders, codec)
            else:
                self.second.restore(step, self.jobs)

    @contextmanager
    def _ours(self, step: Step) -> Iterator[Connection]:
        """Our session. Where extensions are made, their schemas are in its search path: scripts look for each other's types there.

        Nothing else is in these schemas yet.
        """
        if step.entries[0].what != "EXTENSION":
            yield self.inside
            return
        path = ",".join(self._extension_schemas())
        with self.server.connect(self.target.loaded, check_function_bodies="off", search_path=path) as connection:
            yield connection

    def _extension_schemas(self) -> list[str]:
        return sorted({str(facts["schema"]) for (kind, _), facts in self.dump.objects.items() if kind == "extension"})

    def _execute(self, loader: str, statement: Composed) -> None:
        doing = translated_errors(f"Restoring {self.target.loaded}", RestoreError)
        with self.loaders.server(self.server, loader).connect(self.target.loaded) as connection, doing:
            connection.execute(statement, binary=True)  # so the server takes it for one statement, or not at all

    def analyze(self) -> None:
        """Collect the planner's statistics, of each owner's tables as their owner; those of which that fails are named."""
        log.info("collecting the planner's statistics of %s", self.target.loaded)
        tables = """SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p', 'm') AND NOT relisshared
            AND pg_get_userbyid(relowner) = current_user ORDER BY relkind, 1"""
        for server in (self.server, *(self.loaders.server(self.server, owner) for owner in self.loaders.roles)):
            with server.connect(self.target.loaded) as connection, translated_errors(f"Analyzing {self.target.loaded}", RestoreError):
                for (name,) in connection.execute(tables).fetchall():
                    analyze(connection, name)


def analyze(connection: Connection, table: str) -> None:
    """Collect the statistics of a table; without them, all that it holds is there nevertheless."""
    try:
        connection.execute(SQL("ANALYZE {}").format(SQL(table)))
    except psycopg.Error as error:
        if connection.closed:
            raise
        log.warning("ANALYZE of %s: %s", connection.info.dbname, str(error).strip())
        log.warning("table %s has no statistics, or not all: ANALYZE it once that is mended", table)


def _so_far(connection: Connection, target: Target) -> str:
    try:
        row = connection.execute("SELECT pg_database_size(%s)", [target.loaded]).fetchone()
    except psycopg.Error as error:
        return f"{target.loaded}: its size can't be read now: {error}"
    assert row is not None
    had = human_size(int(target.snapshot["bytes"]))
    return f"{target.loaded}: {human_size(row[0])} restored, it had {had} at the source"


def create_database(server: Server, restore: RestoreView, target: Target) -> None:
    """Create the database to restore into, empty of what the source did not have, and closed to everybody else.

    A database of that name is dropped.
    """
    name = Identifier(target.loaded)
    with undisturbed(server, [target.loaded]) as connection, translated_errors(f"Creating database {target.loaded}", RestoreError):
        drop(connection, target.loaded)
        connection.execute(server_globals.create_statement(target.loaded, target.facts, server.about.major))
        connection.execute(SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
    schemas = {schema: facts for _, schema, facts in restore.rows(target.artifact, "schema")}
    extensions = {extension for _, extension, _ in restore.rows(target.artifact, "extension")}
    with server.connect(target.loaded) as connection, translated_errors(f"Preparing database {target.loaded}", RestoreError):
        if "public" not in schemas:
            connection.execute("DROP SCHEMA public")
        elif target.major < 15:  # whose pg_dump leaves it as it is in a new database, which is not the same in a newer server
            comments = {name: facts["text"] for _, name, facts in restore.rows(target.artifact, "comment")}
            for statement in server_globals.schema_statements(
                Identifier("public"), target.terms.schema(schemas["public"]), comments.get("schema public")
            ):
                connection.execute(statement)
        if "plpgsql" not in extensions:
            connection.execute("DROP EXTENSION plpgsql")
