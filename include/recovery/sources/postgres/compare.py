"""Comparing databases with what a set holds of them: the verification of a restore, and what a restore would change."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Sequence

from recovery.common.errors import RestoreError, VerificationError
from recovery.packs.content_diff import Change, Difference, changes
from recovery.packs.content_diff import compare as compare_rows
from recovery.packs.content_index import Facts, Row
from recovery.sources.base import RestoreView
from recovery.sources.postgres import exceptions
from recovery.sources.postgres.accounts import server_globals, versions
from recovery.sources.postgres.accounts.roles import changed, created_roles, needed_roles, roles, wake
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.definitions import catalog, dumped
from recovery.sources.postgres.definitions.columns import BY_COLUMNS
from recovery.sources.postgres.definitions.held_names import hold_schemas, hold_tables
from recovery.sources.postgres.definitions.reading import Definitions, Readings, as_meant, kept
from recovery.sources.postgres.dump.copy_text import TableText
from recovery.sources.postgres.dump.pg_dump import large_object_inventory
from recovery.sources.postgres.dump.table_reader import large_object_digest, table_texts
from recovery.sources.postgres.targets import KEPT, Objects, Target, expected_objects

log = logging.getLogger(__name__)

_NAMES_SHOWN = 10


def verify_staged(server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target]) -> list[Difference]:
    """Compare what was loaded, and the roles, with the set; see :meth:`recovery.sources.base.Restorer.verify_staged`."""
    differences = _verify_roles(server, restore, chosen)
    for target in chosen:
        differences += _verify_database(server, jobs, restore, target)
    return differences


def _verify_roles(server: Server, restore: RestoreView, chosen: Sequence[Target]) -> list[Difference]:
    """All roles must be there. Those that this restore created or took over are awakened, compared, and that is rolled back."""
    expected = needed_roles(restore, chosen).keys()
    with server.maintenance() as connection, translated_errors("Trying the restored roles", RestoreError):
        found = {name: facts for _, name, facts in server_globals.role_rows(connection)}
        missing = [Difference("role", name, "is missing") for name in sorted(expected - found.keys())]
        created = {name for name in created_roles(restore) if name in found and name in expected}
        sleeping = {name for name in created if server_globals.is_asleep(found[name])}
        with connection.transaction(force_rollback=True):
            differences = wake(connection, restore, sleeping)
        return missing + differences + changed(roles(restore), found, created - sleeping)


def _verify_database(server: Server, jobs: int, restore: RestoreView, target: Target) -> list[Difference]:
    expected = expected_objects(restore, target)
    found = found_objects(server, jobs, target.loaded, target.facts["encoding"], expected)
    found["database", target.saved] = _outside(server, target)
    expected, found = alike(expected, found, target.major, kept(restore, target.saved))
    expected = exceptions.accepted(expected, found, exceptions.kept(restore, target.saved), str(target.snapshot["codec"]))
    expected, found = target.terms.expected(expected), target.terms.found(found)
    differences = compare_rows(rows_of(expected), rows_of(found)) + _set_aside(server, target) + _of_others(server, target)
    log.info("database %s: %d things compared, %d differ", target.name, len(expected), len(differences))
    return differences


def _set_aside(server: Server, target: Target) -> list[Difference]:
    """Schemas that no set has, and that are not compared: whoever made one during the load could hide things in it."""
    with server.connect(target.loaded) as connection, translated_errors(f"Listing the schemas of {target.loaded}", RestoreError):
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname ~ %s ORDER BY 1", [catalog.SET_ASIDE_SCHEMA]).fetchall()
    return [Difference("schema", name, "is not in the set") for (name,) in found]


def _of_others(server: Server, target: Target) -> list[Difference]:
    """Large objects that belong to others, or that others have rights on, where the set's own owners and rights are not brought."""
    if target.terms == KEPT:
        return []
    query = """SELECT oid::text FROM pg_largeobject_metadata WHERE pg_get_userbyid(lomowner) <> coalesce(%s, pg_get_userbyid(lomowner))
        OR NOT %s AND EXISTS (SELECT FROM aclexplode(lomacl) WHERE grantee <> lomowner) ORDER BY oid"""
    with server.connect(target.loaded) as connection, translated_errors(f"Listing the large objects of {target.loaded}", RestoreError):
        found = connection.execute(query, [target.terms.heir, target.terms.rights]).fetchall()
    return [Difference("large object", number, "belongs to somebody else, or others have rights on it") for (number,) in found]


def compare(server: Server, jobs: int, restore: RestoreView, chosen: Sequence[Target], *, exactly: bool = False) -> list[Change]:
    """What a restore would change in databases, object by object; a name begins with that of its database in the set.

    Args:
        server: where they are.
        jobs: tables that are read at the same time.
        restore: whose set it is.
        chosen: the databases.
        exactly: as a set has them that was made of these very databases, not of ones that were restored from another.
    """
    there = server.databases()
    found_changes: list[Change] = []
    for target in chosen:
        expected = expected_objects(restore, target)
        found: Objects = {}
        if target.name in there:
            found = found_objects(server, jobs, target.name, target.facts["encoding"], expected)
            with server.maintenance() as connection:
                found["database", target.saved] = server_globals.database_facts(connection, target.name) or {}
            if not exactly:
                expected, found = alike(expected, found, target.major)
                expected, found = target.terms.expected(expected), target.terms.found(found)
        found_changes += changes(_within(target, expected), _within(target, found)) if exactly else changes_within(target, expected, found)
    return together(found_changes)


def changes_within(target: Target, expected: Objects, found: Objects) -> Iterator[Change]:
    """What would change in a database; names begin with that of the database in the set."""
    others = {key: expected[key] for key in Definitions(expected, found).in_other_text()}
    same = {key: facts for key, facts in found.items() if key not in others}
    yield from changes(_within(target, {key: facts for key, facts in expected.items() if key not in others}), _within(target, same))
    for kind, name, facts in _within(target, others):
        yield Change(kind, "other text", 1, facts.get("bytes", 0), (name,))


def together(found: Iterable[Change]) -> list[Change]:
    """Changes of the same kind as one."""
    sums: dict[tuple[str, str], Change] = {}
    for change in found:
        key = change.kind, change.what
        if other := sums.get(key):
            names = sorted({*other.names, *change.names})[:_NAMES_SHOWN]
            change = Change(*key, other.count + change.count, other.bytes + change.bytes, tuple(names))
        sums[key] = change
    return [sums[key] for key in sorted(sums)]


def _within(target: Target, objects: Objects) -> Iterator[Row]:
    for kind, name, facts in rows_of(objects):
        yield kind, name if kind == "database" else f"{target.saved}.{name}", facts


def rows_of(objects: Objects) -> Iterator[Row]:
    """Objects as rows."""
    return ((kind, name, facts) for (kind, name), facts in objects.items())


def found_objects(server: Server, jobs: int, database: str, encoding: str, expected: Objects) -> Objects:
    """What a database holds inside, with the contents of its tables, as a set has it.

    Args:
        server: where it is.
        jobs: tables that are read at the same time.
        database: its name there.
        encoding: that its texts are read in, the set's.
        expected: what the set holds, for the order of columns.
    """
    with server.connect(database, autocommit=False) as connection:
        hold_schemas(connection)
        found = {(kind, name): facts for kind, name, facts in catalog.object_rows(connection)}
        numbers = dumped.tables(connection)
        hold_tables(connection, {name: numbers.get(name, 0) for (_, name), facts in found.items() if facts.get("filter")})
        dumped.refuse_owned_configuration(connection)
        sequences = [name for kind, name in found if kind == "sequence"]
        for name, facts in dumped.sequence_values(connection, sequences).items():
            found["sequence", name] |= facts
        for facts in found.values():
            facts.pop("at", None)
        for name, facts in table_texts(server, database, encoding, dict(to_be_read(found, expected)), jobs).items():
            found["table", name] |= facts
    with server.connect(database, autocommit=False) as connection:
        found["large objects", "all"] = _large_objects(connection)
    return found


def to_be_read(found: Objects, expected: Objects) -> Iterator[tuple[str, Facts]]:
    """Tables with rows, in the set's order of columns where they have the same."""
    for (kind, name), facts in found.items():
        other = expected.get((kind, name), facts)
        if kind == "table" and facts["data"] and other["data"]:
            same = sorted(facts["copy"] or ()) == sorted(other["copy"] or ())
            yield name, facts | {"copy": (other if same else facts)["copy"], "bytes": other.get("bytes", 0)}


def _large_objects(connection: Connection) -> Facts:
    facts = large_object_inventory(connection)
    del facts["numbers"], facts["sizes"]
    return facts | {"digest": large_object_digest(connection)}


def _outside(server: Server, target: Target) -> Facts:
    """What a loaded database will be on the outside: owner, rights and settings are tried, read, and rolled back."""
    with server.maintenance() as connection, translated_errors(f"Trying the settings of database {target.loaded}", RestoreError):
        with connection.transaction(force_rollback=True):
            for statement in server_globals.database_statements(target.loaded, target.brought):
                connection.execute(statement)
            facts = server_globals.database_facts(connection, target.loaded)
    if facts is None:
        raise VerificationError(f"Database {target.loaded} is not there.", "Trigger a new restore.")
    return facts


def alike(expected: Objects, found: Objects, major: int | None = None, readings: Readings | None = None) -> tuple[Objects, Objects]:
    """Both sides, without what a restore by pg_dump's own script changes without changing the database.

    Args:
        expected: what should be there.
        found: what is there.
        major: version of PostgreSQL that the expected are from; None if they are from the same server.
        readings: definitions that mean the same as the expected ones.
    """
    expected, found = _gathered(expected, found)
    for key, facts in found.items():
        if key in expected:
            expected[key], found[key] = _alike_facts(key[0], expected[key], facts, major)
            found[key] = as_meant(readings or {}, key, expected[key], found[key])
    return expected, found


def _gathered(expected: Objects, found: Objects) -> tuple[Objects, Objects]:
    """Both sides, with the rows of hashed tables that a restore spreads over other partitions counted at their table."""
    # Older sets say that of tables only whose key is an enum itself.
    hashed = {key: facts["hashed by enum"] for side in (expected, found) for key, facts in side.items() if facts.get("hashed by enum")}
    expected, found = (
        {key: facts | {"hashed by enum": hashed[key]} if key in hashed else facts for key, facts in side.items()}
        for side in (expected, found)
    )
    orders: dict[str, list[list[str] | None]] = {}
    for facts in (*expected.values(), *found.values()):
        if table := facts.get("hashed by enum"):
            orders.setdefault(table, []).append(facts["copy"])
    together = {table for table, copies in orders.items() if all(copy == copies[0] for copy in copies)}  # so rows are the same text
    return _at_their_table(expected, together), _at_their_table(found, together)


def _at_their_table(objects: Objects, together: Collection[str]) -> Objects:
    gathered = dict(objects)
    sums: dict[str, TableText] = {}
    for key, facts in objects.items():
        if "digest" in facts and facts.get("hashed by enum") in together:
            text = sums.setdefault(facts["hashed by enum"], TableText())
            text.digest.merge(facts["count"], facts["digest"])
            text.size += facts["bytes"]
            gathered[key] = {name: value for name, value in facts.items() if name not in text.facts()}
    for table, text in sums.items():
        if ("table", table) in gathered:
            gathered["table", table] = gathered["table", table] | text.facts()
    return gathered


def _alike_facts(kind: str, expected: Facts, found: Facts, major: int | None) -> tuple[Facts, Facts]:
    expected, found = dict(expected), dict(found)
    if major:
        expected, found = versions.as_known(major, expected, found, catalog_columns=kind in BY_COLUMNS)
    for facts in (expected, found):
        facts.pop("privileged", None)  # which settings are a superuser's differs between versions
    if kind == "extension":  # a restore creates the version that the server has; preflight shows the difference
        expected.pop("version", None)
        found.pop("version", None)
    if kind == "user mapping" and not ("options" in expected and "options" in found):  # only a superuser reads them
        expected.pop("options", None)
        found.pop("options", None)
    if kind == "table" and sorted(expected["copy"] or ()) == sorted(found["copy"] or ()):  # children of INHERITS get another order
        found["copy"] = expected["copy"]
    return expected, found
