"""What belongs to a PostgreSQL server as a whole: roles, memberships, tablespaces, and what a database is on the outside.

A set keeps them twice: ``globals.sql``, made by ``pg_dumpall`` for a person with ``psql``, and ``roles.jsonl`` for the
restore, one role a line with its password hash. The rows of the contents hold no hash.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, LiteralString

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.common.errors import ArtifactError, RestoreError
from recovery.common.json_text import read_json
from recovery.packs.content_index import Facts, Row
from recovery.sources.postgres.client import Connection, translated_errors
from recovery.sources.postgres.definitions.names import NAME, quoted_name, raw

_ROLES: LiteralString = """SELECT r.rolname, jsonb_build_object(
      'superuser', r.rolsuper, 'inherit', r.rolinherit, 'createrole', r.rolcreaterole, 'createdb', r.rolcreatedb, 'login', r.rolcanlogin,
      'replication', r.rolreplication, 'bypassrls', r.rolbypassrls, 'connection limit', r.rolconnlimit, 'valid until', r.rolvaliduntil,
      'settings', (SELECT s.setconfig FROM pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0),
      'comment', shobj_description(r.oid, 'pg_authid'),
      'member of', (SELECT jsonb_agg(DISTINCT jsonb_build_array(pg_get_userbyid(m.roleid), m.admin, m.inherit, m.may_set))
          FROM (SELECT roleid, bool_or(admin_option) AS admin, bool_or((to_jsonb(g) ->> 'inherit_option')::bool) AS inherit,
              bool_or((to_jsonb(g) ->> 'set_option')::bool) AS may_set
            FROM pg_auth_members g WHERE g.member = r.oid AND pg_get_userbyid(roleid) !~ {made} GROUP BY roleid) m),
      'parameters', {parameters})
    FROM pg_roles r WHERE r.rolname !~ '^pg_' AND r.rolname !~ {made} ORDER BY r.rolname"""
"""Since PostgreSQL 16 several may grant the same membership; what counts is what they give together."""
_MADE = "^recovery_(load|query)_[0-9a-f]{8}(_[0-9]+)?$"
"""Names of the login roles that restores, checks and hooks make for a while; nobody backs them up or restores them."""
_PARAMETERS: LiteralString = """(SELECT jsonb_agg(DISTINCT jsonb_build_array(p.parname, a.privilege_type, a.is_grantable))
    FROM pg_parameter_acl p, aclexplode(p.paracl) a WHERE a.grantee = {grantee} AND a.grantee <> 10)"""
"""Rights on settings as ``[setting, privilege, may grant]``, without those of the server's first superuser, who has them all."""
_PARAMETERS_SINCE = 15_00_00

_SERVER: LiteralString = """SELECT jsonb_build_object('parameters', {parameters},
    'settings', (SELECT setconfig FROM pg_db_role_setting WHERE setrole = 0 AND setdatabase = 0))"""

_TABLESPACES = """SELECT t.spcname, jsonb_build_object('owner', pg_get_userbyid(t.spcowner), 'location', pg_tablespace_location(t.oid),
      'options', t.spcoptions, 'acl', (SELECT jsonb_agg(DISTINCT jsonb_build_array(CASE WHEN a.grantee <> 0
        THEN pg_get_userbyid(a.grantee) END, a.privilege_type, a.is_grantable))
        FROM aclexplode(coalesce(t.spcacl, acldefault('t', t.spcowner))) a))
    FROM pg_tablespace t WHERE t.spcname !~ '^pg_' ORDER BY 1"""

_DATABASE = """SELECT jsonb_build_object(
      'encoding', pg_encoding_to_char(d.encoding), 'template', d.datistemplate, 'provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
      'collate', d.datcollate, 'ctype', d.datctype, 'locale', coalesce(to_jsonb(d) ->> 'datlocale', to_jsonb(d) ->> 'daticulocale'),
      'rules', to_jsonb(d) ->> 'daticurules', 'owner', pg_get_userbyid(d.datdba), 'connection limit', d.datconnlimit,
      'tablespace', (SELECT spcname FROM pg_tablespace t WHERE t.oid = d.dattablespace), 'comment', shobj_description(d.oid, 'pg_database'),
      'acl', (SELECT jsonb_agg(DISTINCT jsonb_build_array(CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.privilege_type,
          a.is_grantable)) FROM aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a),
      'settings', (SELECT jsonb_object_agg(CASE WHEN s.setrole = 0 THEN '' ELSE pg_get_userbyid(s.setrole) END, s.setconfig)
          FROM pg_db_role_setting s WHERE s.setdatabase = d.oid))
    FROM pg_database d WHERE d.datname = %s"""

_FLAGS: dict[str, LiteralString] = {
    "superuser": "SUPERUSER",
    "inherit": "INHERIT",
    "createrole": "CREATEROLE",
    "createdb": "CREATEDB",
    "replication": "REPLICATION",
    "bypassrls": "BYPASSRLS",
}
_LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}
"""Settings whose value is a list of names, stored as quoted (``GUC_LIST_QUOTE`` in PostgreSQL's source)."""
_WRITTEN_LIST = re.compile(rf"(?:{NAME}(?:, {NAME})*)?")
"""A list of names such as ``"$user", public``, as ``SET`` writes it."""
_PROVIDERS: dict[str, LiteralString] = {"c": "libc", "i": "icu", "b": "builtin"}
"""Who knows the rules of a locale, by ``pg_database.datlocprovider``."""
_ASLEEP = re.compile(r"created by restore ([0-9a-f]{8}), asleep until its switch")


def asleep_mark(restore_id: str) -> str:
    """The comment of a role that a restore created or took over and that is not in use yet; the swap takes it off.

    It lies on the server, so that any restore, whatever staging it has, can tell such a role from one that somebody locked.
    """
    return f"created by restore {restore_id}, asleep until its switch"


def is_asleep(facts: Facts) -> bool:
    """Whether a role carries such a mark of any restore, and can't log in."""
    return waits_for(facts) is not None


def waits_for(facts: Facts) -> str | None:
    """The id of the restore for whose swap a role is asleep; None if it is not."""
    mark = _ASLEEP.fullmatch(facts["comment"] or "")
    return mark[1] if mark and not facts["login"] else None


def role_rows(connection: Connection) -> list[Row]:
    """Every role but the server's own and those of :data:`_MADE`, without passwords."""
    with translated_errors("Reading the roles"):
        return [("role", name, facts) for name, facts in connection.execute(_with_parameters(connection, _ROLES, "r.oid")).fetchall()]


def server_facts(connection: Connection) -> Facts:
    """What everybody has on a server: rights on settings, and settings for all roles in all databases."""
    with translated_errors("Reading the settings for all roles"):
        row = connection.execute(_with_parameters(connection, _SERVER, "0")).fetchone()
    assert row is not None
    facts: Facts = row[0]
    return facts


def _with_parameters(connection: Connection, query: LiteralString, grantee: LiteralString) -> Composed:
    known = connection.info.server_version >= _PARAMETERS_SINCE
    return SQL(query).format(made=_MADE, parameters=SQL(_PARAMETERS).format(grantee=SQL(grantee)) if known else SQL("NULL"))


def tablespace_rows(connection: Connection) -> list[Row]:
    """Every tablespace but the server's own."""
    with translated_errors("Reading the tablespaces"):
        return [("tablespace", name, facts) for name, facts in connection.execute(_TABLESPACES).fetchall()]


def passwords(connection: Connection) -> dict[str, str | None] | None:
    """Password hash of every role; None if we may not read them."""
    with translated_errors("Reading the roles' password hashes"):
        row = connection.execute("SELECT has_table_privilege('pg_authid', 'SELECT')").fetchone()
        assert row is not None
        if not row[0]:
            return None
        return dict(connection.execute("SELECT rolname, rolpassword FROM pg_authid").fetchall())


def database_facts(connection: Connection, name: str) -> Facts | None:
    """What a database is on the outside; None if there is none of that name."""
    with translated_errors(f"Reading the settings of database {name}"):
        row = connection.execute(_DATABASE, [name]).fetchone()
    return row[0] if row else None


def write_roles(path: Path, rows: Iterable[Row], hashes: dict[str, str | None] | None) -> None:
    """Write ``roles.jsonl``, readable for nobody else."""
    path.touch(0o600)
    with path.open("w", encoding="utf-8") as out:
        for _, name, facts in rows:
            out.write(json.dumps({"name": name, "password": (hashes or {}).get(name)} | facts, sort_keys=True) + "\n")


def read_roles(path: Path) -> dict[str, dict[str, Any]]:
    """Roles of a ``roles.jsonl``, by name.

    Raises:
        ArtifactError: if it is not one.
    """
    try:
        return {role["name"]: role for role in map(read_json, path.read_bytes().splitlines())}
    except (ValueError, KeyError, TypeError) as error:
        why = f"The set's {path.name} is no list of roles ({type(error).__name__}: {error})."
        raise ArtifactError(why, "Restore another set; report this one.") from None


def create_role(connection: Connection, role: dict[str, Any], restore_id: str) -> None:
    """Create a role without any right: no LOGIN, attributes, memberships or settings; its comment is :func:`asleep_mark`.

    Args:
        connection: to the server.
        role: as the set has it. It gets its password, its limit of connections, and until when it is valid.
        restore_id: of the restore.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Creating role {quoted_name(role['name'])}", RestoreError), connection.transaction():
        _keep_out_of_log(connection)
        connection.execute(SQL("CREATE ROLE {} NOLOGIN {}").format(Identifier(role["name"]), _keys(role)))
        connection.execute(comment(role["name"], asleep_mark(restore_id)))


def adopt_role(connection: Connection, role: dict[str, Any], found: Facts, restore_id: str) -> None:
    """Make a role that a restore left asleep what :func:`create_role` would have created.

    Args:
        connection: to the server.
        role: as the set has it.
        found: as the server has it.
        restore_id: of the restore that takes it over.

    Raises:
        RestoreError: if the server refuses.
    """
    with translated_errors(f"Taking over role {quoted_name(role['name'])}", RestoreError), connection.transaction():
        _keep_out_of_log(connection)
        for statement in sleep(role["name"], found, restore_id):
            connection.execute(statement)
        valid = SQL(" VALID UNTIL 'infinity'" if found["valid until"] and not role["valid until"] else "")
        connection.execute(SQL("ALTER ROLE {} {}{}").format(Identifier(role["name"]), _keys(role), valid))


def _keys(role: dict[str, Any]) -> Composed:
    options: list[Composed] = [
        SQL("CONNECTION LIMIT {}").format(Literal(role["connection limit"])),
        SQL("PASSWORD {}").format(Literal(role["password"])),
    ]
    if role["valid until"]:
        options.append(SQL("VALID UNTIL {}").format(Literal(role["valid until"])))
    return SQL(" ").join(options)


def sleep(role: str, found: Facts, restore_id: str) -> Iterator[Composed]:
    """Statements that take everything from a role that it could use, and mark it as :func:`asleep_mark`.

    Args:
        role: its name.
        found: as the server has it.
        restore_id: of the restore that it waits for.
    """
    name = Identifier(role)
    flags = [SQL(f"NO{word}") for fact, word in _FLAGS.items() if found[fact]]
    yield SQL("ALTER ROLE {} NOLOGIN {}").format(name, SQL(" ").join(flags))
    yield SQL("ALTER ROLE {} RESET ALL").format(name)
    for group, *_ in found["member of"] or ():
        yield SQL("REVOKE {} FROM {}").format(Identifier(group), name)
    yield from parameter_revokes(role, found)
    yield comment(role, asleep_mark(restore_id))


def wake(role: str, facts: Facts) -> Iterator[Composed]:
    """Statements that make a role that slept the set's, but for its memberships."""
    name = Identifier(role)
    flags = [SQL(word if facts[fact] else f"NO{word}") for fact, word in _FLAGS.items() if facts[fact] or fact == "inherit"]
    yield SQL("ALTER ROLE {} {} {}").format(name, SQL("LOGIN" if facts["login"] else "NOLOGIN"), SQL(" ").join(flags))
    yield from settings(SQL("ROLE {}").format(name), facts["settings"])
    for setting, privilege, may_grant in facts["parameters"] or ():
        yield grant(privilege, _parameter(setting), role, may_grant)
    yield comment(role, facts["comment"])


def comment(role: str, text: str | None) -> Composed:
    """The statement that gives a role a comment, or takes it off."""
    return SQL("COMMENT ON ROLE {} IS {}").format(Identifier(role), Literal(text))


def _keep_out_of_log(connection: Connection) -> None:
    """A password hash in a statement would go to the server's log; only a superuser can prevent that."""
    if connection.info.parameter_status("is_superuser") == "on":
        for name, value in (("log_statement", "none"), ("log_min_duration_statement", "-1"), ("log_min_error_statement", "panic")):
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])


def parameter_revokes(role: str, facts: Facts) -> Iterator[Composed]:
    """Statements that take a role's rights on settings away, which also keep it from being dropped."""
    for setting, privilege, _ in facts["parameters"] or ():
        yield SQL("REVOKE {} ON {} FROM {}").format(SQL(privilege), _parameter(setting), Identifier(role))


def _parameter(setting: str) -> Composed:
    return SQL("PARAMETER {}").format(_setting(setting))


def _setting(name: str) -> Composed:
    return SQL(".").join(map(Identifier, name.split(".")))


def grants(member: str, groups: Iterable[list[Any]] | None) -> Iterator[Composed]:
    """Statements that make a role a member of groups, as ``member of`` has them."""
    for group, admin, inherit, may_set in groups or ():
        if inherit is None:  # before PostgreSQL 16
            options = SQL(" WITH ADMIN OPTION" if admin else "").format()
        else:
            flags = [SQL("TRUE" if flag else "FALSE") for flag in (admin, inherit, may_set)]
            options = SQL(" WITH ADMIN {}, INHERIT {}, SET {}").format(*flags)
        yield SQL("GRANT {} TO {}{}").format(Identifier(group), Identifier(member), options)


def settings(whose: Composed, values: Iterable[str] | None) -> Iterator[Composed]:
    """Statements that give a database or a role its settings, ``name=value`` as the catalogs have them; for one transaction.

    A list that ``SET`` would write in another way, which ``set_config`` may have made, is taken over from the transaction's own setting.
    """
    for setting in values or ():
        name, _, value = setting.partition("=")
        listed = name.lower() in _LISTS
        if listed and not _WRITTEN_LIST.fullmatch(value):
            yield SQL("SELECT pg_catalog.set_config({}, {}, true)").format(Literal(name), Literal(value))
            yield SQL("ALTER {} SET {} FROM CURRENT").format(whose, _setting(name))
            yield SQL("SET LOCAL {} TO DEFAULT").format(_setting(name))
        else:
            parts = [raw(part[0]) for part in re.finditer(NAME, value)] if listed else [value]
            yield SQL("ALTER {} SET {} TO {}").format(whose, _setting(name), SQL(", ").join(map(Literal, parts or [""])))


def database_statements(name: str, facts: Facts) -> Iterator[Composed]:
    """Statements that make a database on the outside what the set has: owner, rights, settings, limit, comment."""
    database = Identifier(name)
    yield SQL("ALTER DATABASE {} OWNER TO {}").format(database, Identifier(facts["owner"]))
    yield SQL("ALTER DATABASE {} CONNECTION LIMIT {} IS_TEMPLATE {}").format(
        database, Literal(facts["connection limit"]), Literal(facts["template"])
    )
    yield SQL("COMMENT ON DATABASE {} IS {}").format(database, Literal(facts["comment"]))
    yield from _rights(SQL("DATABASE {}").format(database), facts)
    for role, values in (facts["settings"] or {}).items():
        whose = SQL("ROLE {} IN DATABASE {}").format(Identifier(role), database) if role else SQL("DATABASE {}").format(database)
        yield from settings(whose, values)


def schema_statements(schema: SQL | Identifier, facts: Facts, comment: str | None) -> Iterator[Composed]:
    """Statements that make a schema on the outside what the set has: owner, rights, comment."""
    yield SQL("ALTER SCHEMA {} OWNER TO {}").format(schema, Identifier(facts["owner"]))
    yield SQL("COMMENT ON SCHEMA {} IS {}").format(schema, Literal(comment))
    yield from _rights(SQL("SCHEMA {}").format(schema), facts)


def _rights(what: Composed, facts: Facts) -> Iterator[Composed]:
    for grantee in (None, facts["owner"]):
        yield SQL("REVOKE ALL ON {} FROM {}").format(what, grantee_name(grantee))
    for grantee, privilege, may_grant in facts["acl"] or ():
        yield grant(privilege, what, grantee, may_grant)


def grant(privilege: str, what: Composed, grantee: str | None, may_grant: bool, columns: Composed | None = None) -> Composed:
    """The statement that gives a right.

    Args:
        privilege: its name.
        what: an object with its kind, as in ``TABLE a``.
        grantee: a role; None for everybody.
        may_grant: whether who has it may give it to others.
        columns: of a table, with a space and brackets; None for all of it.
    """
    option = SQL(" WITH GRANT OPTION" if may_grant else "")
    return SQL("GRANT {}{} ON {} TO {}{}").format(SQL(privilege), columns or SQL(""), what, grantee_name(grantee), option)


def grantee_name(role: str | None) -> SQL | Identifier:
    """Who has a right, in a statement; None is everybody."""
    return SQL("PUBLIC") if role is None else Identifier(role)


def create_statement(name: str, facts: Facts, major: int) -> Composed:
    """``CREATE DATABASE`` with a set's encoding, locale and tablespace.

    Args:
        name: of the database.
        facts: its ``database`` row.
        major: version of the server. Since 15 a server may have another default than the C library's locales.
    """
    parts: list[Composed] = [
        SQL("ENCODING {}").format(Literal(facts["encoding"])),
        SQL("LC_COLLATE {}").format(Literal(facts["collate"])),
        SQL("LC_CTYPE {}").format(Literal(facts["ctype"])),
    ]
    if major >= 15:
        parts.append(SQL("LOCALE_PROVIDER {}").format(SQL(_PROVIDERS[facts["provider"]])))
    if facts["provider"] != "c":
        parts.append(SQL("{}_LOCALE {}").format(SQL(_PROVIDERS[facts["provider"]]), Literal(facts["locale"])))
    if facts["rules"]:
        parts.append(SQL("ICU_RULES {}").format(Literal(facts["rules"])))
    if facts["tablespace"] != "pg_default":
        parts.append(SQL("TABLESPACE {}").format(Identifier(facts["tablespace"])))
    return SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(Identifier(name), SQL(" ").join(parts))
