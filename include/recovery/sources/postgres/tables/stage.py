"""Staging single schemas and tables: the set's definitions get the names of staged tables, then the live database gets them and the rows.

The definitions are made in a database of their own, which never has a row. There the server itself gives the relations
that were asked for their other schema, so all that names one of them names it there. What pg_dump then reads fits the live
database: each expression means the functions and types there, and the staged tables among each other.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tarfile import TarInfo

from psycopg.sql import SQL, Identifier

from recovery.common.errors import RestoreError
from recovery.common.files import empty_folder
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.postgres.accounts.loaders import EVERYONE, Loaders
from recovery.sources.postgres.accounts.roles import roles
from recovery.sources.postgres.client import Server, translated_errors
from recovery.sources.postgres.databases.custody import undisturbed
from recovery.sources.postgres.databases.entries import Entry, in_steps, read_entries
from recovery.sources.postgres.databases.stage import Dump, create_database, drop, fill, read, unpack
from recovery.sources.postgres.definitions.names import first_name, listed, pattern, plain, raw, split
from recovery.sources.postgres.dump import archive
from recovery.sources.postgres.tables import staged
from recovery.sources.postgres.tables.contents import RELATIONS, Chosen, belonging
from recovery.sources.postgres.tables.dependents import relations_in
from recovery.sources.postgres.tables.load import Definitions, load
from recovery.sources.postgres.tables.needed import ENTRIES_OF_RELATIONS, needed, texts_of
from recovery.sources.postgres.tables.swap import move

log = logging.getLogger(__name__)

_END_OF_ROWS = len(b"\\.\n\n\n")
_LEFT_OUT = (
    "TABLE DATA ",
    "SEQUENCE SET ",
    "MATERIALIZED VIEW DATA ",
    "STATISTICS DATA ",
    "BLOB",
    "COMMENT - LARGE OBJECT",
    "PUBLICATION",
    "COMMENT - PUBLICATION",
    "EVENT TRIGGER",
    "COMMENT - EVENT TRIGGER",
    "COMMENT - SUBSCRIPTION",
    "USER MAPPING",
    "DEFAULT ACL",
    "ACL ",
)
"""Entries of a dump that are not made: they concern other things, or the whole database, or are given later."""


_OF_A_TABLE = frozenset({"INDEX ATTACH", "STATISTICS", "COMMENT"})


def stage(server: Server, jobs: int, restore: RestoreView, part: Chosen) -> None:
    """Stage what was asked for of one database in the live one.

    Raises:
        RestoreError: if the server refuses.
        ToolError: if pg_restore fails.
    """
    sizes = {facts["bytes"] + _END_OF_ROWS for facts in part.tables.values()}

    def member(info: TarInfo) -> bool:
        return info.name.endswith("toc.dat") or info.size in sizes

    folder, moved = unpack(server, restore, part.target, member), restore.folder / "definitions"
    lines = archive.entries(server.runner, server.bin, folder)
    create_database(server, restore, part.target)
    dump = _needed(server, restore, part, folder, lines)
    made = fill(server, jobs, part.target, dump, restore, whole=False)
    _move(server, part)
    _dump(server, part, moved)
    steps = in_steps(list(_entries(server, part, moved, made.loaders)))
    with undisturbed(server, [part.target.stage]) as connection:
        drop(connection, part.target.stage)
    load(server, jobs, restore, part, Definitions(moved, steps, made.unmade), dict(_files(lines, part, folder)))
    for each in (folder, moved):
        shutil.rmtree(each)


def _needed(server: Server, restore: RestoreView, part: Chosen, folder: Path, lines: Iterable[str]) -> Dump:
    """The definitions that the relations need."""
    codec = part.target.snapshot["codec"]
    entries = read(_wanted(lines, part, _missing_roles(server, part)), part.target, part.all)
    listed_as = {name: listed(" ".join(split(name)), codec) for kind, name in part.all if kind in RELATIONS}
    relations = {entry.number: entry.name for entry in entries if entry.what in ENTRIES_OF_RELATIONS}
    asked = {listed_as[name] for name in part.names}
    own = [number for number, name in relations.items() if name in asked]
    with server.maintenance() as connection:
        chosen = needed(server, connection, folder, entries, own, texts_of(part.all, codec))
    made = {relations.get(entry.number) for entry in chosen}
    others = belonging(part.all, {name for name, entry in listed_as.items() if entry not in made})
    return Dump(
        folder, [entry.line for entry in chosen], {key: facts for key, facts in part.all.items() if key not in others}, roles(restore)
    )


def _wanted(lines: Iterable[str], part: Chosen, missing_roles: Collection[str]) -> Iterator[str]:
    """Entries of the definitions: of foreign keys, only those among the tables that are restored."""
    codec = part.target.snapshot["codec"]
    inner = {listed(f"FK CONSTRAINT {_of_table(part, name)}", codec) for _, name in part.foreign_keys.keys() - part.crossing.keys()}
    gone = tuple(listed(entry, codec) for entry in _gone(part, missing_roles))
    for line in lines:
        entry = plain(line.split(" ", 3)[3])
        if entry in inner if entry.startswith("FK CONSTRAINT ") else not entry.startswith((*_LEFT_OUT, *gone)):
            yield line


def _of_table(part: Chosen, name: str) -> str:
    """A constraint as entries name it."""
    table, own = first_name(name)
    return f"{' '.join(split(table))} {raw(own)} {part.all['table', table]['owner']}"


def _missing_roles(server: Server, part: Chosen) -> set[str]:
    named = {role for (kind, _), facts in part.all.items() if kind == "policy" for role in facts["roles"] or () if role}
    with server.maintenance() as connection:
        return named - {name for (name,) in connection.execute("SELECT rolname FROM pg_roles").fetchall()}


def _gone(part: Chosen, missing_roles: Collection[str]) -> Iterator[str]:
    """How entries begin that name something left out: comments on foreign keys, policies for roles that the server lacks."""
    for kind, name in part.all:
        table, own = first_name(name)
        if kind == "constraint" and _is_left_out(part, name):
            schema, relation = split(table)
            yield f"COMMENT {schema} CONSTRAINT {own} ON {relation} "
        elif kind == "policy" and set(missing_roles) & set(part.all[kind, name]["roles"] or ()):
            schema, relation = split(table)
            yield f"POLICY {schema} {relation} {raw(own)} "
            yield f"COMMENT {schema} POLICY {own} ON {relation} "


def _is_left_out(part: Chosen, constraint: str) -> bool:
    key = "constraint", constraint
    is_foreign_key = str(part.all[key]["definition"]).startswith("FOREIGN KEY")
    return is_foreign_key and (key in part.crossing or key not in part.foreign_keys)


def _move(server: Server, part: Chosen) -> None:
    """Give the relations that were asked for the schemas of staged tables."""
    with (
        server.connect(part.target.stage) as connection,
        translated_errors(f"Moving tables in {part.target.stage}", RestoreError),
        connection.transaction(),
    ):
        for schema in sorted(part.schemas):
            connection.execute(SQL("CREATE SCHEMA {}").format(Identifier(staged.schema_of(part, schema))))
        out = relations_in(connection, (), [split(name) for name in part.names])
        move(connection, out, lambda schema: staged.schema_of(part, schema))


def _dump(server: Server, part: Chosen, folder: Path) -> None:
    codec = part.target.snapshot["codec"]
    argv: list[str | bytes | Path] = [server.bin / "pg_dump", "--schema-only", "--format=directory", f"--file={folder}"]
    argv += ["--no-acl", "--no-publications", "--no-subscriptions", "--no-password", f"--dbname={server.target(part.target.stage)}"]
    argv += [f"--schema={pattern(staged.schema_of(part, schema))}".encode(codec) for schema in sorted(part.schemas)]
    empty_folder(folder)
    server.runner.run(argv, env=server.environment(part.target.facts["encoding"]), writes=folder)


_DEPENDENT = """SELECT n.nspname, '', c.relname, pg_get_userbyid(c.relowner) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE c.relkind IN ('i', 'I') AND n.nspname = ANY (%(schemas)s)
    UNION ALL SELECT n.nspname, kind, s.stxname, pg_get_userbyid(c.relowner) FROM pg_statistic_ext s
      JOIN pg_namespace n ON n.oid = s.stxnamespace JOIN pg_class c ON c.oid = s.stxrelid, unnest(ARRAY['', 'STATISTICS ']) kind
      WHERE n.nspname = ANY (%(schemas)s)"""
"""What is made as the owner of its table: attached indexes, which are nobody's in the list, and statistics, which may be another's."""


def _entries(server: Server, part: Chosen, folder: Path, loading: Loaders) -> Iterator[Entry]:
    """The definitions, each with the owner in the set as whom it is restored."""
    codec = part.target.snapshot["codec"]
    owner_of = {role: owner for owner, role in loading.roles.items()}
    with server.connect(part.target.stage) as connection, translated_errors(f"Reading {part.target.stage}", RestoreError):
        rows = connection.execute(_DEPENDENT, {"schemas": [staged.schema_of(part, schema) for schema in part.schemas]}).fetchall()
    role_of = {f"{listed(schema, codec)} {kind}{listed(name, codec)}": role for schema, kind, name, role in rows}
    for entry in read_entries(archive.entries(server.runner, server.bin, folder), loading.names(), codec):
        if entry.what != "SCHEMA":
            role = role_of.get(entry.name) if entry.what in _OF_A_TABLE else None
            yield replace(entry, loader=owner_of[role or entry.owner or loading.roles[EVERYONE]])


def _files(lines: Iterable[str], part: Chosen, folder: Path) -> Iterator[tuple[str, Path]]:
    """The file with the rows of each table."""
    codec = part.target.snapshot["codec"]
    found: dict[str, list[Path]] = {}
    for line in lines:
        found.setdefault(plain(line.split(" ", 3)[3]), []).append(folder / f"{line.partition(';')[0]}.dat")
    for name, facts in part.tables.items():
        entry = listed(f"TABLE DATA {' '.join(split(name))} {facts['owner']}", codec)
        yield name, next(file for file in found[entry] if _is_of(file, facts))


def _is_of(file: Path, facts: Facts) -> bool:
    return file.exists() and file.stat().st_size == facts["bytes"] + _END_OF_ROWS
