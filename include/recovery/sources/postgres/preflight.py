"""What a restore of PostgreSQL databases would replace, and what would fail later; nothing is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from recovery.common.errors import PlanError, RestoreError, ToolError
from recovery.common.units import human_size
from recovery.common.wording import shortened
from recovery.packs.content_diff import compare
from recovery.packs.content_index import Facts
from recovery.sources.base import RestoreView
from recovery.sources.model import Finding, Preflight, fact, refusal, warning
from recovery.sources.postgres.accounts import server_globals
from recovery.sources.postgres.accounts import terms as terms_of_target
from recovery.sources.postgres.accounts.roles import globals_artifact, needed_roles, roles
from recovery.sources.postgres.blockers import blockers
from recovery.sources.postgres.client import Connection, Server, translated_errors
from recovery.sources.postgres.databases.privileged import privileged
from recovery.sources.postgres.definitions.names import quoted_name, quoted_names
from recovery.sources.postgres.locations import has_room, second_copy
from recovery.sources.postgres.selection import parse
from recovery.sources.postgres.tables import contents, swap
from recovery.sources.postgres.tables import preflight as tables_preflight
from recovery.sources.postgres.tables.preflight import needed_bytes, unpacked_bytes
from recovery.sources.postgres.targets import KEPT, LEFT_OUT, UNTRIED, Target, Terms, databases, expected_objects, targets

_SET_SINCE = 16_00_00
"""A membership may be one without the right to give something to the group, or without its rights."""


def preflight(server: Server, restore: RestoreView, renamed: Mapping[str, str], backed_up: Sequence[str], terms: Terms) -> Preflight:
    """See :meth:`recovery.sources.base.Restorer.preflight`.

    Args:
        server: the target.
        restore: what is to be restored.
        renamed: names of databases there, by their names in the set.
        backed_up: the databases that the plan names; empty for all.
        terms: who gets what is restored.
    """
    findings = [
        fact(
            f"PostgreSQL {server.about.version} at {server.endpoint.place or server.endpoint.host}, system {server.about.system},"
            f" as {quoted_name(server.about.user)}."
        )
    ]
    if server.about.standby:
        findings.append(refusal("The server is a standby in recovery: nothing can be restored there. Name the primary in the Connection."))
    try:
        findings.append(fact(f"Client tools in {server.bin}."))
    except ToolError as error:
        findings.append(refusal(str(error)))
    parts = list(_parts(restore, renamed))
    findings += parts
    if any(finding.level == "refusal" for finding in parts):
        return Preflight(server.identity, tuple(findings))
    chosen, tables = targets(restore, renamed, terms), contents.chosen(restore, renamed)
    with server.maintenance() as connection, translated_errors("Looking at the target", RestoreError):
        for target in chosen:
            findings += _version(server, target)
            findings += _left_out(restore, target)
            findings += terms_of_target.findings(server, connection, restore, target)
            findings += _live(connection, target, has_room(server, connection, chosen))
            findings += blockers(connection, target)
            findings += _extensions(connection, restore, target, server.about.superuser)
            findings += _tablespaces(connection, restore, target)
            findings += _made_by_superuser(restore, target) if server.about.superuser else []
            findings += _safety_backup_findings(server, connection, target, backed_up)
        if restore.beside and (chosen or not restore.only):
            findings.append(
                refusal(
                    "Method beside is for single schemas and tables. Write them into the parts of this source, as database.schema or"
                    " database.schema.table. A whole database comes beside the live one by a target that gives it another name."
                )
            )
        if tables and terms != KEPT:
            findings.append(
                refusal("Single tables come back with their owners and rights. With owners or grants, restore whole databases.")
            )
        if chosen or not restore.only:
            findings += _roles(connection, restore, chosen)
            findings += _rights(connection, restore, chosen) if not server.about.superuser else []
        needs = [(target, int(target.snapshot["bytes"])) for target in chosen]
        room = tuple(second_copy(server, connection, [*needs, *((part.target, needed_bytes(part)) for part in tables)]))
    findings += tables_preflight.findings(server, restore, tables)
    scratch = [*(_unpacked(restore, target) for target in chosen), *map(unpacked_bytes, tables)]
    return Preflight(server.identity, tuple(findings), {str(restore.folder): max(scratch, default=0)}, room)


def _parts(restore: RestoreView, renamed: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the set has the databases that were asked for, and each has a name of its own at the target."""
    try:
        asked = parse(restore.only)
    except PlanError as error:
        yield refusal(str(error))
        return
    known = databases(restore, renamed)
    had = sorted(target.saved for target in known)
    for name in sorted(asked.named - set(had)):
        yield refusal(f"The set has no database {name}. It has {shortened(had) or 'none'}.")
    restored = [target for target in known if not restore.only or target.saved in asked.named]
    for name, count in Counter(target.name for target in restored).items():
        if count > 1:
            both = " and ".join(target.saved for target in restored if target.name == name)
            yield refusal(f"The databases {both} of the set would both become {name}. Give one of them another name in the plan's targets.")
    for target in restored:
        if target.name != target.saved:
            yield fact(f"Database {target.saved} of the set is restored as {target.name}.")


def _rows(connection: Connection, query: str, *values: Any) -> list[Any]:
    return connection.execute(query, values).fetchall()


def _unpacked(restore: RestoreView, target: Target) -> int:
    """Bytes of a database's dump while it is restored."""
    data = sum(facts.get("bytes", 0) for _, _, facts in restore.rows(target.artifact, "table", "large objects"))
    return int(data * 1.05) + (64 << 20)


def _version(server: Server, target: Target) -> Iterator[Finding]:
    if target.major > server.about.major:
        yield refusal(
            f"Database {target.saved} was dumped from PostgreSQL {target.major}; the server is {server.about.version}."
            f" Restore to {target.major} or newer."
        )
    elif target.major < server.about.major:
        yield warning(
            f"Database {target.saved} was dumped from PostgreSQL {target.major}; the server is {server.about.version}."
            " What only the newer one knows, such as the right MAINTAIN, is not compared."
        )


def _live(connection: Connection, target: Target, room_for_both: bool) -> Iterator[Finding]:
    room = human_size(target.snapshot["bytes"])
    found = _rows(connection, "SELECT oid FROM pg_database WHERE datname = %s", target.name)
    if not found:
        yield fact(f"Database {target.name} is not there; it is created. The server needs about {room} for it.")
        return
    size = _rows(connection, "SELECT pg_database_size(%s)", target.name)[0][0]
    fate = f"is replaced and kept as {target.before}. The server needs about {room} more until that is dropped."
    if target.in_place and room_for_both:
        fate = (
            "is set aside by a rename, and dropped once the restored one is accepted: there is room for both. Before, the set is loaded"
            f" beside it with all rows, and verified. The server needs about {room} for that."
        )
    elif target.in_place:
        fate = (
            f"is dropped, and then loaded from the set; the server needs about {room} for it. There is no known room for both. So first,"
            " only the definitions of the set, and those of the safety backup, are loaded beside it, without rows."
        )
    yield fact(f"Database {target.name}, {human_size(size)}, {fate}")
    yield from _keeping(connection, target) if not target.in_place else ()
    sessions = _rows(
        connection,
        "SELECT coalesce(quote_ident(usename), backend_type), application_name, count(*) FROM pg_stat_activity"
        " WHERE datname = %s AND pid <> pg_backend_pid() GROUP BY 1, 2 ORDER BY 1, 2",
        target.name,
    )
    if sessions:
        who = ", ".join(f"{count} of {user}{f' ({application})' if application else ''}" for user, application, count in sessions)
        yield fact(f"Sessions in {target.name} that {'dropping it' if target.in_place else 'the swap'} would end now: {who}.")
        yield from _sessions_of_superusers(connection, target)


def _sessions_of_superusers(connection: Connection, target: Target) -> Iterator[Finding]:
    query = """SELECT DISTINCT quote_ident(usename), application_name FROM pg_stat_activity JOIN pg_roles ON rolname = usename
        WHERE datname = %s AND rolsuper AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) ORDER BY 1, 2"""
    me = quoted_name(connection.info.user)
    for user, application in _rows(connection, query, target.name):
        yield warning(
            f"Only a superuser may end the session of {user} ({application}) in {target.name}, and {me} is none. If it does not end soon"
            " after the services have stopped, the restore fails and rolls itself back."
        )


def _left_out(restore: RestoreView, target: Target) -> Iterator[Finding]:
    """What the plan left out of the backup on purpose, and so comes back empty or not at all."""
    fate = "is in the safety set alone" if target.in_place else f"stays in {target.before}"
    rows, whole = list[str](), list[str]()
    for _, name, facts in restore.rows(target.artifact, LEFT_OUT):
        by = f"{name} ({facts['by']})"
        rows.append(by) if facts["what"] == "rows" else whole.append(f"{facts['what']} {by}")
    for names, end in ((whole, "don't come back"), (rows, "come back empty")):
        if names:
            what = "Tables" if names is rows else "Parts"
            yield warning(
                f"{what} of database {target.saved} {end}, since the plan left them out of the backup: {shortened(names)}."
                f" What {target.name} has of them now {fate}."
            )


def _keeping(connection: Connection, target: Target) -> Iterator[Finding]:
    """The replaced database belongs to the Connection's user, so that its owner can't drop it: unless he may do what that user may."""
    query = """SELECT rolname FROM pg_database d JOIN pg_roles r ON r.oid = datdba
        WHERE datname = %s AND NOT rolsuper AND pg_has_role(datdba, current_user::regrole, 'MEMBER')"""
    for (owner,) in _rows(connection, query, target.name):
        yield warning(
            f"{owner} may drop the replaced database {target.before}: its owner is the Connection's user, or has the rights of that user."
            " To keep it from its owner, restore as another user."
        )


def _safety_backup_findings(server: Server, connection: Connection, target: Target, backed_up: Sequence[str]) -> Iterator[Finding]:
    """In place, a live database has to be one that the safety backup has, with all that is in it."""
    if not target.in_place:
        return
    open_to_all = _rows(connection, "SELECT datallowconn AND datconnlimit <> -2 FROM pg_database WHERE datname = %s", target.name)
    if open_to_all and backed_up and target.name not in backed_up:
        yield refusal(
            f"The plan does not name database {target.name}, so no safety backup would have it, and there would be no rollback."
            " Add it to the plan's databases, or choose method: swap."
        )
    elif open_to_all == [(False,)]:
        yield refusal(f"Database {target.name} lets no connections in, so no safety backup would have it. Choose method: swap.")
    elif open_to_all:
        with server.connect(target.name) as inside:
            earlier = sorted(swap.all_aside(inside))
        if earlier:
            yield refusal(
                f"Database {target.name} has tables that earlier restores set aside ({', '.join(earlier)}); no backup has them, and they"
                " would be dropped with it. Wait until maintenance has deleted them, after"
                " keep_replaced; or drop their schemas by hand; or choose method: swap."
            )


def _extensions(connection: Connection, restore: RestoreView, target: Target, superuser: bool) -> Iterator[Finding]:
    query = """SELECT a.name, a.default_version, coalesce(bool_or(v.trusted OR NOT v.superuser), false) FROM pg_available_extensions a
        LEFT JOIN pg_available_extension_versions v ON v.name = a.name AND v.version = a.default_version GROUP BY 1, 2"""
    available = {name: (version, trusted) for name, version, trusted in _rows(connection, query)}
    for _, quoted, facts in restore.rows(target.artifact, "extension"):
        name = quoted.strip('"').replace('""', '"')
        if name == UNTRIED:
            yield refusal(
                f"Database {target.saved} has the extension {name}, which needs steps of its own at a restore. Nobody has tried them with"
                " this project. Restore the database by hand, by RESTORE.md and the extension's manual."
            )
            continue
        if name not in available:
            yield refusal(
                f"Database {target.saved} needs the extension {name} {facts['version']}, which is not installed on the server. Install it."
            )
            continue
        version, trusted = available[name]
        if version != facts["version"]:
            yield warning(f"Extension {name} of database {target.saved} had version {facts['version']}; the server installs {version}.")
        if not trusted and not superuser:
            yield refusal(f"Only a superuser can create the extension {name} of database {target.saved}.")


def _made_by_superuser(restore: RestoreView, target: Target) -> Iterator[Finding]:
    """What is made with all rights; everything else is made by roles that have no right outside of their database."""
    made = [f"extension {name}" for _, name, _ in restore.rows(target.artifact, "extension") if name != "plpgsql"]
    made += [f"{kind} {name}" for kind, name in privileged(expected_objects(restore, target))]
    if made:
        yield fact(f"Made as superuser in database {target.name}, none of it with code of the set running: {', '.join(made)}.")


def _tablespaces(connection: Connection, restore: RestoreView, target: Target) -> Iterator[Finding]:
    used = {target.facts["tablespace"]}
    used |= {facts.get("tablespace") for _, _, facts in restore.rows(target.artifact, "table", "index", "materialized view")}
    known = {name for (name,) in _rows(connection, "SELECT spcname FROM pg_tablespace")}
    for name in sorted(filter(None, used - known)):
        yield refusal(f"Database {target.saved} uses the tablespace {name}, which the server lacks. CREATE TABLESPACE {name} first.")


def _roles(connection: Connection, restore: RestoreView, chosen: Sequence[Target]) -> Iterator[Finding]:
    """Roles that the restore brings: those that would be created or taken over, and those that are there."""
    artifact = globals_artifact(restore)
    if artifact is None:
        yield fact("Roles are not restored: the set has none.")
        return
    server = next(restore.rows(artifact, "server"))[2]
    wanted = needed_roles(restore, chosen)
    found = {name: facts for _, name, facts in server_globals.role_rows(connection)}
    if missing := sorted(wanted.keys() - found.keys()):
        yield fact(f"Roles that the server lacks and that are created, without rights until the cutover: {quoted_names(missing)}.")
        if powers := [f"{quoted_name(name)} ({', '.join(able)})" for name in missing if (able := _powers(wanted[name]))]:
            yield warning(f"Some of these roles can do more than use what they own from the cutover on: {'; '.join(powers)}.")
        if not server["passwords"]:
            yield warning("The set has no passwords of roles: those that are created can't log in with one until you set it.")
    users = {name for name, facts in roles(restore).items() if any(group in wanted for group, *_ in facts["member of"] or ())}
    if left := sorted(users - wanted.keys() - found.keys()):
        yield fact(f"Members of these roles that the server lacks and that are not created: {shortened(list(map(quoted_name, left)))}.")
    asleep = sorted(name for name in wanted.keys() & found.keys() if server_globals.is_asleep(found[name]))
    others = restore.others
    if waiting := [name for name in asleep if server_globals.waits_for(found[name]) in others]:
        yield refusal(f"Roles wait for the swap of another restore that has not ended: {quoted_names(waiting)}. Wait until it has.")
    elif asleep:
        yield fact(f"Roles that an earlier restore created and left without LOGIN, and that this one takes over: {quoted_names(asleep)}.")
    yield from _staying(wanted, {name: facts for name, facts in found.items() if name not in asleep})
    now = server_globals.server_facts(connection)
    for difference in compare([("", "", {what: server[what] for what in now})], [("", "", now)]):
        yield warning(f"What all roles have (ALTER ROLE ALL, rights of PUBLIC on parameters) stays as it is: {difference.what}.")


def _powers(role: Facts) -> list[str]:
    """What a role may do on its whole server."""
    attributes = [what for what in ("superuser", "createrole", "createdb", "replication", "bypassrls") if role[what]]
    return attributes + [group for group, *_ in role["member of"] or () if group.startswith("pg_")]


def _staying(wanted: dict[str, Facts], staying: dict[str, Facts]) -> Iterator[Finding]:
    """How the roles of the set differ from those of the server, which stay as they are."""
    for difference in compare(_shared(wanted, staying), _shared(staying, wanted)):
        yield warning(f"Role {quoted_name(difference.name)} exists and stays as it is: {difference.what}.")
    for name in sorted(wanted.keys() & staying.keys()):
        if wanted[name]["login"] and not staying[name]["login"]:
            role = quoted_name(name)
            yield warning(f"Nobody can log in as {role}, before or after the restore, until you ALTER ROLE {role} LOGIN: it has NOLOGIN.")


def _shared(some: dict[str, Facts], others: dict[str, Facts]) -> Iterable[tuple[str, str, Facts]]:
    return [("role", name, facts) for name, facts in some.items() if name in others]


def _rights(connection: Connection, restore: RestoreView, chosen: Sequence[Target]) -> Iterator[Finding]:
    """What a user that is no superuser needs."""
    user, may_create, may_create_roles, may_signal = _rows(
        connection,
        "SELECT rolname, rolcreatedb, rolcreaterole, pg_has_role('pg_signal_backend', 'USAGE') FROM pg_roles WHERE rolname = current_user",
    )[0]
    me = quoted_name(user)
    if not may_create:
        yield refusal(f"User {me} may not create databases. ALTER ROLE {me} CREATEDB, or restore as a superuser.")
    if not may_create_roles:
        yield refusal(
            f"User {me} may not create the roles that load a database, each without the rights of others. ALTER ROLE {me} CREATEROLE, or"
            " restore as a superuser."
        )
    if not may_signal:
        yield refusal(f"User {me} may not end other users' sessions. GRANT pg_signal_backend TO {me}, or restore as a superuser.")
    known = {name for _, name, facts in server_globals.role_rows(connection) if not server_globals.is_asleep(facts)}
    if missing := sorted(needed_roles(restore, chosen).keys() - known):
        yield refusal(
            f"User {me} is no superuser, and roles are missing or asleep: {quoted_names(missing)}. Create them, or restore as a superuser."
        )
    owners = {target.brought["owner"] for target in chosen}
    for target in chosen:
        owners |= {target.terms.owner(facts["owner"]) for _, _, facts in restore.rows(target.artifact) if facts.get("owner")}
        owners |= {
            owner for (owner,) in _rows(connection, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = %s", target.name)
        }
        for kind, name in privileged(expected_objects(restore, target)):
            yield refusal(f"Only a superuser can restore the {kind} {name} of database {target.saved}.")
    how = "SET" if connection.info.server_version >= _SET_SINCE else "MEMBER"
    for name in sorted(owners & known - {"pg_database_owner"}):
        query = "SELECT pg_has_role(oid, 'USAGE') AND pg_has_role(oid, %s), rolsuper FROM pg_roles WHERE rolname = %s"
        is_member, is_superuser = _rows(connection, query, how, name)[0]
        owner = quoted_name(name)
        if is_superuser and not is_member:
            yield refusal(f"{owner}, who owns a part of what is restored or replaced, is a superuser. Restore as a superuser.")
        elif not is_member:
            yield refusal(f"User {me} is not a member of {owner}, who owns a part of what is restored. GRANT {owner} TO {me}.")
