"""What a restore of PostgreSQL databases would replace, and what would fail later; nothing is changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from recovery.components import postgres_globals as server_globals
from recovery.components.base import Finding, Preflight, Restore
from recovery.components.postgres_client import Connection, Server, in_words
from recovery.components.postgres_set import NAME_BYTES, Target, globals_artifact, roles, targets
from recovery.contents import Facts, compare
from recovery.errors import RestoreError, ToolError
from recovery.units import human_size

_NEEDS_SUPERUSER = ("event trigger", "foreign-data wrapper", "language", "access method", "transform")


def preflight(server: Server, restore: Restore) -> Preflight:
    """See :meth:`recovery.components.base.Component.preflight`."""
    chosen = targets(restore)
    findings = [fact(f"PostgreSQL {server.about.version} at {server.endpoint.host}, system {server.about.system}, as {server.about.user}.")]
    if server.about.standby:
        findings.append(refusal("The server is a standby in recovery: nothing can be restored there. Name the primary in the Connection."))
    try:
        findings.append(fact(f"Client tools in {server.bin}."))
    except ToolError as error:
        findings.append(refusal(str(error)))
    with server.maintenance() as connection, in_words("Looking at the target", RestoreError):
        for target in chosen:
            findings += _names(target)
            findings += _version(server, target)
            findings += _live(connection, target)
            findings += _blockers(connection, target)
            findings += _extensions(connection, restore, target, server.about.superuser)
            findings += _tablespaces(connection, restore, target)
        findings += _roles(connection, restore)
        if not server.about.superuser:
            findings += _rights(connection, restore, chosen)
    return Preflight(
        server.identity, tuple(findings), {str(restore.folder): max((_unpacked(restore, target) for target in chosen), default=0)}
    )


def fact(text: str) -> Finding:
    """Something to know."""
    return Finding("fact", text)


def warning(text: str) -> Finding:
    """Something to think about before saying yes."""
    return Finding("warning", text)


def refusal(text: str) -> Finding:
    """Something that has to change before a restore begins."""
    return Finding("refusal", text)


def _rows(connection: Connection, query: str, *values: Any) -> list[Any]:
    return connection.execute(query, values).fetchall()


def _unpacked(restore: Restore, target: Target) -> int:
    """Bytes of a database's dump while it is restored."""
    data = sum(facts.get("bytes", 0) for _, _, facts in restore.rows(target.artifact, "table", "large objects"))
    return int(data * 1.05) + (64 << 20)


def _names(target: Target) -> Iterator[Finding]:
    longest = max(len(name.encode()) for name in (target.stage, target.before))
    if longest > NAME_BYTES:
        yield refusal(
            f"The name of database {target.name} is too long: {target.before} would have {longest} bytes, PostgreSQL keeps {NAME_BYTES}."
            f" Rename the database to at most {NAME_BYTES - longest + len(target.name.encode())} bytes first."
        )


def _version(server: Server, target: Target) -> Iterator[Finding]:
    major = int(target.snapshot["major"])
    if major > server.about.major:
        yield refusal(
            f"Database {target.name} was dumped from PostgreSQL {major}; the server is {server.about.version}. Restore to {major} or newer."
        )
    elif major < server.about.major:
        yield warning(
            f"Database {target.name} was dumped from PostgreSQL {major}; the proof may show what a newer version writes differently."
        )


def _live(connection: Connection, target: Target) -> Iterator[Finding]:
    room = human_size(target.snapshot["bytes"])
    found = _rows(connection, "SELECT oid FROM pg_database WHERE datname = %s", target.name)
    if not found:
        yield fact(f"Database {target.name} is not there; it is created. The server needs about {room} for it.")
        return
    size = _rows(connection, "SELECT pg_database_size(%s)", target.name)[0][0]
    yield fact(
        f"Database {target.name}, {human_size(size)}, is replaced and kept as {target.before}."
        f" The server needs about {room} more until that is dropped."
    )
    sessions = _rows(
        connection,
        "SELECT coalesce(usename, backend_type), application_name, count(*) FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2",
        target.name,
    )
    if sessions:
        who = ", ".join(f"{count} of {user}{f' ({application})' if application else ''}" for user, application, count in sessions)
        yield fact(f"Sessions in {target.name} that the switch would end now: {who}.")


def _blockers(connection: Connection, target: Target) -> Iterator[Finding]:
    """What breaks when a database is renamed, or keeps it from being renamed."""
    name = target.name
    for (gid,) in _rows(connection, "SELECT gid FROM pg_prepared_xacts WHERE database = %s", name):
        yield refusal(f"The prepared transaction {gid!r} in {name} blocks the switch. COMMIT PREPARED or ROLLBACK PREPARED it.")
    for (slot,) in _rows(connection, "SELECT slot_name FROM pg_replication_slots WHERE database = %s", name):
        yield refusal(
            f"The logical replication slot {slot} would stay with the replaced database {name}. Drop it, and create it again afterwards."
        )
    for (subscription,) in _rows(
        connection, "SELECT s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s", name
    ):
        yield refusal(
            f"The subscription {subscription} would stay with the replaced database {name}. Drop it, and create it again afterwards."
        )
    if _rows(connection, "SELECT current_setting('cron.database_name', true) = %s", name) == [(True,)]:
        yield refusal(
            f"pg_cron is bound to database {name} (cron.database_name). Point it to another database and restart the server first."
        )
    if _rows(connection, "SELECT datistemplate FROM pg_database WHERE datname = %s", name) == [(True,)]:
        yield refusal(f"Database {name} is a template of the server. ALTER DATABASE ... IS_TEMPLATE false first.")


def _extensions(connection: Connection, restore: Restore, target: Target, superuser: bool) -> Iterator[Finding]:
    query = """SELECT a.name, a.default_version, coalesce(bool_or(v.trusted OR NOT v.superuser), false) FROM pg_available_extensions a
        LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version GROUP BY 1, 2"""
    available = {name: (version, trusted) for name, version, trusted in _rows(connection, query)}
    for _, quoted, facts in restore.rows(target.artifact, "extension"):
        name = quoted.strip('"').replace('""', '"')
        if name not in available:
            yield refusal(
                f"Database {target.name} needs the extension {name} {facts['version']}, which is not installed on the server. Install it."
            )
            continue
        version, trusted = available[name]
        if version != facts["version"]:
            yield warning(f"Extension {name} of database {target.name} had version {facts['version']}; the server installs {version}.")
        if not trusted and not superuser:
            yield refusal(f"Only a superuser can create the extension {name} of database {target.name}.")


def _tablespaces(connection: Connection, restore: Restore, target: Target) -> Iterator[Finding]:
    used = {target.facts["tablespace"]}
    used |= {facts.get("tablespace") for _, _, facts in restore.rows(target.artifact, "table", "index", "materialized view")}
    known = {name for (name,) in _rows(connection, "SELECT spcname FROM pg_tablespace")}
    for name in sorted(filter(None, used - known)):
        yield refusal(f"Database {target.name} uses the tablespace {name}, which the server lacks. CREATE TABLESPACE {name} first.")


def _roles(connection: Connection, restore: Restore) -> Iterator[Finding]:
    """Roles of the set: those that would be created, and those that differ and stay as they are."""
    artifact = globals_artifact(restore)
    if artifact is None:
        yield fact("The roles are not restored: they are not part of this restore.")
        return
    wanted = roles(restore)
    found = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    if missing := sorted(wanted.keys() - found.keys()):
        yield fact(f"Roles that the server lacks and that are created: {', '.join(missing)}.")
        if not next(restore.rows(artifact, "server"))[2]["passwords"]:
            yield warning("The set has no passwords of roles: those that are created can't log in with one until you set it.")
    asleep = sorted(name for name in wanted.keys() & found.keys() if server_globals.is_asleep(found[name]))
    if asleep:
        yield fact(f"Roles that an earlier restore created and left without LOGIN, and that this one takes over: {', '.join(asleep)}.")
    staying = {name: facts for name, facts in found.items() if name not in asleep}
    for difference in compare(_shared(wanted, staying), _shared(staying, wanted)):
        yield warning(f"Role {difference.name} exists and stays as it is: {difference.what}.")
    for name in sorted(wanted.keys() & staying.keys()):
        if wanted[name]["login"] and not staying[name]["login"]:
            yield warning(f"Nobody can log in as {name}, before or after the restore, until you ALTER ROLE {name} LOGIN: it has NOLOGIN.")


def _shared(some: dict[str, Facts], others: dict[str, Facts]) -> Iterable[tuple[str, str, Facts]]:
    return [("role", name, facts) for name, facts in some.items() if name in others]


def _rights(connection: Connection, restore: Restore, chosen: Sequence[Target]) -> Iterator[Finding]:
    """What a user that is no superuser needs."""
    me, may_create, may_signal = _rows(
        connection, "SELECT rolname, rolcreatedb, pg_has_role('pg_signal_backend', 'USAGE') FROM pg_roles WHERE rolname = current_user"
    )[0]
    if not may_create:
        yield refusal(f"User {me} may not create databases. ALTER ROLE {me} CREATEDB, or restore as a superuser.")
    if not may_signal:
        yield refusal(f"User {me} may not end other users' sessions. GRANT pg_signal_backend TO {me}, or restore as a superuser.")
    known = {name for _, name, facts in server_globals.role_rows(connection) if not server_globals.is_asleep(facts)}
    if missing := sorted(roles(restore).keys() - known):
        yield refusal(
            f"User {me} is no superuser, and roles are missing or asleep: {', '.join(missing)}. Create them, or restore as a superuser."
        )
    owners = {target.facts["owner"] for target in chosen}
    for target in chosen:
        owners |= {facts["owner"] for _, _, facts in restore.rows(target.artifact) if facts.get("owner")}
        owners |= {
            owner for (owner,) in _rows(connection, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", target.name)
        }
        for kind, name, _ in restore.rows(target.artifact, *_NEEDS_SUPERUSER):
            yield refusal(f"Only a superuser can restore the {kind} {name} of database {target.name}.")
    for owner in sorted(owners & known - {"pg_database_owner"}):
        if not _rows(connection, "SELECT pg_has_role(%s, 'MEMBER')", owner)[0][0]:
            yield refusal(f"User {me} is not a member of {owner}, who owns a part of what is restored. GRANT {owner} TO {me}.")
