"""How to get PostgreSQL back by hand: quickly, or so that the code of the databases gets no rights."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from psycopg.sql import SQL, Composed, Identifier, Literal

from recovery.common.wording import escaped
from recovery.packs.content_index import Row
from recovery.sources.guide import Guide, GuidedSource
from recovery.sources.postgres.databases.ownership import KINDS, owned_by
from recovery.sources.postgres.definitions.names import raw

_TEMPLATE = """\
{% set several = sources | length > 1 -%}
{% macro label(source) -%}
{% if several %}Of `{{ source.id }}`, version {{ source.version }} or later:

{% endif %}{% endmacro -%}
{% macro helpers() -%}
(set -eu
failed=
script() { psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname "$1"; }
all_of() { psql --no-psqlrc --quiet --tuples-only --no-align --dbname "$1" --file "$2"; }
try() { "$@" || failed=yes; }
silent() {
  said=$(PGOPTIONS="$PGOPTIONS -c client_min_messages=error" "$@" 2>&1) || true
  [ "$said" = done ] || { failed=yes; printf '%s\\n' "$said" >&2; }
}
entry='^[0-9]+; [0-9]+ [0-9]+'
{% endmacro -%}
Export `PGHOST`, `PGPORT`, `PGUSER` (a superuser) and `PGPASSWORD` for the new server\
{% if several %}: anew for each source, with all of its commands.{% else %}, version {{ sources[0].version }} or later.{% endif %}
Let nobody else in before all is done. Settings that the databases bring must change nothing meanwhile:

```sh
export PGOPTIONS='{{ sources[0].options }}'
```

Roles first, all but yours, which keeps its password; complaints about roles that exist already are expected, everything else is not.

{% for source in sources -%}
{{ label(source) }}```sh
{% for folder in source.globals -%}
grep -v -E "^(CREATE|ALTER) ROLE \\"?$PGUSER\\"?( WITH|;)" {{ folder }}/globals.sql | psql --no-psqlrc --dbname postgres
{% endfor -%}
```

{% endfor -%}
Databases bring code: checks, domains, generated columns, expressions of indexes and of partition keys, materialized views.
PostgreSQL runs it while it loads them, with the rights of who is logged in.
So who owned a database, or only a table in it, can become a superuser of the new server if a superuser loads it.
Choose one of two ways.

Both load all rows first. Rows that don't pass a check of a table or domain come in nevertheless: checks are made again when all rows
are there. Only a domain that tables have inside of arrays, rows or ranges keeps its checks: the server can't look at these again.
Functions that need the search path of their database get it until then. Write the scripts for that:

```sh
cat > before.sql <<'END'
CREATE SCHEMA restore_by_hand;
CREATE TABLE restore_by_hand.checks AS
  WITH RECURSIVE below (relation, depth) AS (SELECT inhparent, 0 FROM pg_inherits
    UNION SELECT i.inhrelid, b.depth + 1 FROM below b JOIN pg_inherits i ON i.inhparent = b.relation),
  made_of (part, whole, inside) AS (SELECT typbasetype, oid, false FROM pg_type WHERE typtype = 'd'
    UNION ALL SELECT typelem, oid, true FROM pg_type WHERE typelem <> 0
    UNION ALL SELECT a.atttypid, c.reltype, true FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE NOT a.attisdropped
    UNION ALL SELECT r.rngsubtype, t.oid, true FROM pg_range r JOIN pg_type t
      ON t.oid IN (r.rngtypid, (to_jsonb(r) ->> 'rngmultitypid')::oid)),
  holding (domain, type, inside) AS (SELECT contypid, contypid, false FROM pg_constraint WHERE contypid >= 16384
    UNION SELECT h.domain, m.whole, h.inside OR m.inside FROM holding h JOIN made_of m ON m.part = h.type)
  SELECT CASE k.conrelid WHEN 0 THEN 'DOMAIN' ELSE 'TABLE' END AS kind, k.conname AS name, pg_get_constraintdef(k.oid) AS definition,
    CASE k.conrelid WHEN 0 THEN format_type(k.contypid, NULL) ELSE k.conrelid::regclass::text END AS object,
    obj_description(k.oid, 'pg_constraint') AS comment,
    (SELECT coalesce(max(b.depth), 0) FROM below b WHERE b.relation = k.conrelid) AS depth
  FROM pg_constraint k
  WHERE k.contype = 'c' AND greatest(k.conrelid, k.contypid) >= 16384 AND k.conislocal AND k.convalidated
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.deptype = 'e'
      AND (d.classid, d.objid) IN (('pg_class'::regclass, k.conrelid), ('pg_type'::regclass, k.contypid)))
    AND NOT EXISTS (SELECT FROM holding h JOIN pg_attribute a ON a.atttypid = h.type JOIN pg_class c ON c.oid = a.attrelid
      WHERE h.domain = k.contypid AND h.inside AND c.relkind IN ('r', 'p', 'm') AND NOT a.attisdropped);
SELECT format('ALTER %s %s DROP CONSTRAINT %I', kind, object, name) FROM restore_by_hand.checks ORDER BY depth \\gexec
END
cat > after.sql <<'END'
SELECT format('ALTER %s %s ADD CONSTRAINT %I %s NOT VALID', kind, object, name, definition) FROM restore_by_hand.checks
  ORDER BY depth \\gexec
SELECT format('COMMENT ON CONSTRAINT %I ON %s %s IS %L', name, nullif(kind, 'TABLE'), object, comment) FROM restore_by_hand.checks
  WHERE comment IS NOT NULL \\gexec
SELECT format('ALTER %s %s VALIDATE CONSTRAINT %I', kind, object, name) FROM restore_by_hand.checks ORDER BY depth, object, name \\gexec
DROP SCHEMA restore_by_hand CASCADE;
\\echo done
END
cat > no-paths.sql <<'END'
SELECT format('ALTER %s %s.%I(%s) RESET search_path', CASE prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
    pronamespace::regnamespace, proname, pg_get_function_identity_arguments(oid))
  FROM pg_proc WHERE EXISTS (SELECT FROM unnest(proconfig) c WHERE c LIKE 'search\\_path=%, restore\\_by\\_hand') \\gexec
END
```

{% for source in sources -%}
{{ label(source) }}```sh
{% for database in source.databases -%}
cat > {{ database.folder }}.paths.sql <<'END'
SELECT format('ALTER %s %s.%I(%s) SET search_path = %s, restore_by_hand', CASE p.prokind WHEN 'p' THEN 'PROCEDURE' ELSE 'FUNCTION' END,
    p.pronamespace::regnamespace, p.proname, pg_get_function_identity_arguments(p.oid), {{ database.path }})
  FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
  WHERE p.oid >= 16384 AND p.prokind <> 'a' AND p.prosrc <> '' AND l.lanname NOT IN ('internal', 'c')
    AND NOT EXISTS (SELECT FROM unnest(p.proconfig) c WHERE c LIKE 'search\\_path=%') \\gexec
END
cat > {{ database.folder }}.counts.sql <<'END'
{% for statement in database.counts -%}
{{ statement }};
{% endfor -%}
\\echo done
END
{% endfor -%}
```

{% endfor -%}
Each way ends with `Not all came back` if something is missing. Above that stands what:

- A statement after `Command was:`. Remove what the error names, for example rows that a foreign key or a unique index does not
  allow, or a mistake in a function that a materialized view calls. Then run the statement. If a foreign key gets `NOT VALID` at its end,
  it holds for new rows at once.
- `check constraint ... is violated by some row`, or `column ... contains values that violate the new constraint`: the check is there,
  and holds for new rows. Change these rows, then `VALIDATE` it.
- `REVOKE` from a number: nothing is missing. An extension once gave this right to a role that is gone.
- A table, its rows in the set, and its rows here. Remove what kept them out, for example with `ALTER DOMAIN ... DROP CONSTRAINT`, or for
  a stored column with `ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION`. Then load them with the table's line of `pg_restore --list`,
  which has `TABLE DATA` and its name, alone in a file: `pg_restore --use-list <file>`.

### If you trust all owners of these databases

{% for source in sources -%}
{{ label(source) }}```sh
{{ helpers() }}late='(DEFAULT )?ACL|((COMMENT|SECURITY LABEL) - )?EVENT TRIGGER'
{% for database in source.databases %}
from={{ database.folder }}
to={{ database.to }}
pg_restore --list --create "$from" > all.list
grep -E "$entry ($late) " all.list | grep -v -E "$entry ACL - DATABASE " > late.list || true
grep -v -x -F -f late.list all.list > part.list
pg_restore --dbname {{ database.through }} --create --exit-on-error --section pre-data --use-list part.list "$from"
script "$to" < "$from.paths.sql"
script "$to" < before.sql
try pg_restore --dbname "$to" --section data --jobs 2 "$from"
try pg_restore --dbname "$to" --section post-data --jobs 2 --use-list part.list "$from"
silent all_of "$to" after.sql
script "$to" < no-paths.sql
silent all_of "$to" "$from.counts.sql"
try pg_restore --dbname "$to" --use-list late.list "$from"
{% endfor -%}
[ -z "$failed" ] || { echo 'Not all came back: see above.' >&2; exit 1; }
)
```

{% endfor -%}
### If you do not

A role without any right outside of a database, `restore_loader`, owns and loads it.
What is left for the superuser runs no code of the set: extensions, search paths of functions, large objects, publications, comments,
owners and rights, and to turn row security on.

- While a database is loaded, code of one owner can change objects of the others, and so get the rights of these owners later.
- Nothing is given to a superuser: what belonged to one stays with `restore_loader`, which can't log in any more. So does what code of
  the databases made meanwhile. Look at each function before you give it to somebody with more rights.
- Event triggers are left out. Their functions would run with the rights of superusers: look at them, then make the triggers.

This stops with an error at what only a superuser may make: functions in C or untrusted languages, base types, operator classes, casts
between types of others, text search templates. Then drop the database and `restore_loader`, and take the first way, or leave these out.

Export `LOADER_PASSWORD`, a new random text.

{% for source in sources -%}
{% set parts = source.parts -%}
{{ label(source) }}```sh
{{ helpers() }}entries() {
  grep -v -E "$entry ((COMMENT|SECURITY LABEL) - )?EVENT TRIGGER " all.list | grep ${2:-} -E "$entry ($1) " > part.list || true
}
loader() { PGUSER=restore_loader PGPASSWORD="$LOADER_PASSWORD" "$@"; }

script postgres <<'END'
\\set password `printf %s "$LOADER_PASSWORD"`
CREATE ROLE restore_loader LOGIN PASSWORD :'password';
END
{% for database in source.databases %}
from={{ database.folder }}
to={{ database.to }}
pg_restore --list --create "$from" > all.list
entries '{{ parts.database }}'
pg_restore --dbname {{ database.through }} --create --exit-on-error --use-list part.list "$from"
script postgres <<'END'
ALTER DATABASE {{ database.name }} OWNER TO restore_loader;
END
entries 'SCHEMA'
loader pg_restore --dbname "$to" --no-owner --exit-on-error --use-list part.list "$from"
entries '{{ parts.first }}'
pg_restore --dbname "$to" --exit-on-error --use-list part.list "$from"
script "$to" <<'END'
SELECT format('GRANT USAGE ON FOREIGN DATA WRAPPER %I TO restore_loader', fdwname) FROM pg_foreign_data_wrapper \\gexec
END
entries '{{ parts.database }}|SCHEMA|{{ parts.first }}|{{ parts.last }}' -v
loader pg_restore --dbname "$to" --no-owner --exit-on-error --section pre-data --use-list part.list "$from"
script "$to" < "$from.paths.sql"
loader psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname "$to" --file before.sql
try loader pg_restore --dbname "$to" --no-owner --section data --jobs 2 --use-list part.list "$from"
try loader pg_restore --dbname "$to" --no-owner --section post-data --jobs 2 --use-list part.list "$from"
silent loader all_of "$to" after.sql
script "$to" < no-paths.sql
silent loader all_of "$to" "$from.counts.sql"
script "$to" <<'END'
{% for statement in database.handover -%}
{{ statement }}
{% endfor -%}
END
entries '{{ parts.last }}'
try pg_restore --dbname "$to" --use-list part.list "$from"
{% endfor %}
script postgres <<'END'
ALTER ROLE restore_loader NOLOGIN PASSWORD NULL;
END
[ -z "$failed" ] || { echo 'Not all came back: see above.' >&2; exit 1; }
)
```
{% if not loop.last %}
{% endif -%}
{% endfor -%}
"""
_PARTS = {
    "database": "DATABASE|(ACL|COMMENT|SECURITY LABEL) - DATABASE",
    "first": "EXTENSION|FOREIGN DATA WRAPPER",
    "last": "BLOBS?|ROW SECURITY|PUBLICATION|SUBSCRIPTION|COMMENT|SECURITY LABEL|ACL|DEFAULT ACL",
}
"""Entries of a dump's list that a superuser restores, by how they begin: before the others nothing of the set is there to be run."""
_OPTIONS = (
    "-c role=none -c search_path= -c exit_on_error=off -c local_preload_libraries= -c default_tablespace="
    " -c default_transaction_read_only=off -c default_transaction_isolation=read\\ committed -c statement_timeout=0 -c lock_timeout=0"
)
_PLAIN = re.compile(r"\w+", re.ASCII)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OTHER_NAMES = {"foreign server": "server", "statistics": "statistics object", "domain": "type", "enum": "type"}
"""Of kinds that the set's contents call otherwise."""
_HANDED_OVER = sorted({*KINDS, *_OTHER_NAMES} - {"large object", "publication", "event trigger", "foreign-data wrapper", "language"})


def _describe(source: GuidedSource) -> Mapping[str, Any]:
    """What an artifact is shows in its members: a database has a table of contents, the globals are one SQL file."""
    members = {artifact: {name for _, name, _ in source.members(artifact)} for artifact in source.folders}
    return {
        "id": source.id,
        "version": source.versions.get("postgres", "of the dump"),
        "globals": [folder for artifact, folder in source.folders.items() if "globals.sql" in members[artifact]],
        "parts": _PARTS,
        "options": _OPTIONS,
        "databases": [_database(source, artifact) for artifact in source.folders if "toc.dat" in members[artifact]],
    }


def _database(source: GuidedSource, artifact: str) -> Mapping[str, Any]:
    ((name, owner, settings),) = (
        (name, facts["owner"], facts["settings"] or {}) for _, name, facts in source.contents(artifact, "database")
    )
    return {
        "folder": source.folders[artifact],
        # The one named postgres is there already, and empty: it is made anew.
        "through": "template1 --clean --if-exists" if name == "postgres" else "postgres",
        "name": _on_one_line(Identifier(name).as_string()),
        "to": name if _PLAIN.fullmatch(name) else shlex.quote("dbname='{}'".format(re.sub(r"(['\\])", r"\\\1", name))),
        "path": Literal(_search_path(settings.get("", []), owner)).as_string(),
        "counts": [_on_one_line(statement.as_string()) for statement in _counts(source.contents(artifact, "table"))],
        "handover": list(_handover(source, artifact, name, owner)),
    }


def _search_path(settings: Sequence[str], owner: str) -> str:
    """The schemas that a database's own settings have its sessions look into, as SQL lists them; for ``$user`` that of its owner."""
    setting = next((setting for setting in settings if setting.startswith("search_path=")), 'search_path="$user", public')
    listed = re.findall(rf'{_QUOTED.pattern}|[^\s,"]+', setting.removeprefix("search_path="))
    names = [raw(name) if name.startswith('"') else name.lower() for name in listed]
    return _on_one_line(SQL(", ").join(Identifier(owner if name == "$user" else name) for name in names).as_string()) or "pg_catalog"


def _counts(tables: Iterable[Row]) -> Iterator[Composed]:
    """Statements that show each table that has another number of rows than in the set."""
    counts: dict[tuple[str, str], int] = {}
    for _, name, facts in tables:
        if "count" in facts and not facts.get("extension"):  # whose tables may have rows that the extension makes
            table = ("", facts["hashed by enum"]) if facts.get("hashed by enum") else ("ONLY ", name)
            counts[table] = counts.get(table, 0) + facts["count"]
    for (only, name), rows in counts.items():
        label = Literal(escaped(name))
        query = SQL("SELECT {}, {}, count(*) FROM {} HAVING count(*) <> {}")
        yield query.format(label, rows, SQL(only + name), rows)


def _handover(source: GuidedSource, artifact: str, database: str, database_owner: str) -> Iterator[str]:
    """Lines for psql that give what a role has loaded to its owners, but nothing to superusers: code of others may have changed it."""
    superusers = {name for each in source.folders for _, name, facts in source.contents(each, "role") if facts["superuser"]}
    yield _line(SQL("ALTER DATABASE {} OWNER TO {}").format(Identifier(database), Identifier(database_owner)))
    for kind in _HANDED_OVER:
        for _, name, facts in source.contents(artifact, kind):
            there = facts.get("of") or (kind, name, facts["owner"]) == ("schema", "public", "pg_database_owner")
            if not there and facts["owner"] not in superusers:
                if kind == "procedure":
                    yield _procedure_owned_by(name, facts["owner"])
                else:
                    yield _line(owned_by(_OTHER_NAMES.get(kind, kind), name, facts["owner"]))


def _procedure_owned_by(name: str, owner: str) -> str:
    """A line that gives a procedure to a role. ALTER has to name its results too: others may have the same arguments as it has both."""
    query = SQL(
        "SELECT format('ALTER PROCEDURE %s.%I(%s) OWNER TO %I', pronamespace::regnamespace, proname,"
        " pg_get_function_identity_arguments(oid), {}) FROM pg_proc WHERE oid = {}::regprocedure"
    ).format(SQL(_text(owner)), SQL(_text(name)))
    return f"{query.as_string()} \\gexec"


def _line(statement: Composed) -> str:
    return f"{_on_one_line(statement.as_string())};"


def _text(value: str) -> str:
    """A text in SQL that can end neither a line nor the text that a shell reads, whatever the server takes backslashes for."""
    known = value.replace("\\", "\\\\").replace("'", "''")
    return "E'" + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in known) + "'"


def _on_one_line(statement: str) -> str:
    """A statement whose names can end neither a line nor the text that a shell reads."""
    return _QUOTED.sub(lambda name: name[0] if name[0].isprintable() else _by_numbers(name[0]), statement)


def _by_numbers(name: str) -> str:
    return "U&" + "".join(char if char.isprintable() and char != "\\" else f"\\+{ord(char):06x}" for char in name)


GUIDE = Guide("PostgreSQL", "PostgreSQL's `psql` and `pg_restore`", _TEMPLATE, _describe)
