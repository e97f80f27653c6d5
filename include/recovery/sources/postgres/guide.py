"""How to get PostgreSQL back by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recovery.sources.guide import Guide, GuidedSource

_TEMPLATE = """\
Set `PGHOST`, `PGPORT`, `PGUSER` (a superuser) and `PGPASSWORD` for the new server, version {{ sources[0].version }} or later.
Roles first, all but yours, which keeps its password; complaints about roles that exist already are expected, everything else is not.
{% for source in sources %}
```sh
{% for folder in source.globals -%}
grep -v -E "^(CREATE|ALTER) ROLE \\"?$PGUSER\\"?( WITH|;)" {{ folder }}/globals.sql | psql --no-psqlrc --dbname postgres
{% endfor -%}
{% for folder, through in source.databases -%}
pg_restore --dbname {{ through }} --create --exit-on-error --jobs 2 {{ folder }}
{% endfor -%}
```
{% endfor %}"""


def _describe(source: GuidedSource) -> Mapping[str, Any]:
    """What an artifact is shows in its members: a database has a table of contents, the globals are one SQL file."""
    members = {artifact: {name for _, name, _ in source.members(artifact)} for artifact in source.folders}
    databases = [artifact for artifact in source.folders if "toc.dat" in members[artifact]]
    return {
        "version": source.versions.get("postgres", "of the dump"),
        "globals": [folder for artifact, folder in source.folders.items() if "globals.sql" in members[artifact]],
        "databases": [(source.folders[artifact], _through(source, artifact)) for artifact in databases],
    }


def _through(source: GuidedSource, artifact: str) -> str:
    """Where to connect to make a database. The one named postgres is there already, and empty: it is made anew."""
    names = {name for _, name, _ in source.contents(artifact, "database")}
    return "template1 --clean --if-exists" if "postgres" in names else "postgres"


GUIDE = Guide("PostgreSQL", "PostgreSQL's `psql` and `pg_restore`", _TEMPLATE, _describe)
