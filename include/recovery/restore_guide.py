"""``RESTORE.md``: how to get exactly this set back with stock tools alone, on the day when nothing else is left."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from recovery.artifact import safe_name
from recovery.backup import Work
from recovery.contents import read_rows
from recovery.plan import ConfigSource, FilesSource, MongoSource, Plan, PostgresSource

_TEMPLATE = """\
# How to restore set {{ set_id }} of {{ plan }} by hand

You need this folder, `age`, `zstd`, `tar`, `openssl`, `sha256sum`, and{% if postgres %} PostgreSQL's `psql` and `pg_restore`{% endif %}\
{% if postgres and mongo %},{% endif %}{% if mongo %} MongoDB's `mongorestore`{% endif %}; from the recovery kit `identity.txt` (opens the packs) and `public.pem` \
(tells whether this set is genuine).
Run everything in this folder.

## 1. Is it genuine and whole?

```sh
openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.json.sig
```

Stop if this does not print `Signature Verified Successfully`. The manifest names the SHA-256 of `packs.jsonl`, which names
that of every pack:

```sh
grep -A 3 '"packs": {' manifest.json; sha256sum packs.jsonl
sha256sum --check <<'END'
{% for pack in packs -%}
{{ pack.sha256 }}  {{ pack.path }}
{% endfor -%}
END
```

## 2. Unpack

Packs of one artifact go into one folder, in any order.

```sh
mkdir -p restored
{% for folder, files in folders -%}
mkdir -p {{ folder }}
{% for file in files -%}
age --decrypt --identity identity.txt {{ file }} | zstd --decompress \\
  | tar --extract --preserve-permissions --xattrs --directory {{ folder }}
{% endfor -%}
{% endfor -%}
```

`restored/` now holds everything, secrets included: keep it on an encrypted disk, and remove it afterwards.
{% if config %}
## 3. Configuration
{% for source, folder, paths in config %}
{{ source }} lies in `{{ folder }}` under the paths that it had. Compare before you copy: an old `.env` has old passwords.
{% for path in paths %}
- `{{ path }}`
{%- endfor %}
{% endfor %}{% endif %}
{%- if postgres %}
## 4. PostgreSQL

Set `PGHOST`, `PGPORT`, `PGUSER` (a superuser) and `PGPASSWORD` for the new server, version {{ postgres[0].version }} or later.
Roles first; complaints about roles that exist already are expected, everything else is not.
{% for source in postgres %}
```sh
{% for folder in source.globals -%}
psql --dbname postgres --file {{ folder }}/globals.sql
{% endfor -%}
{% for folder in source.databases -%}
pg_restore --dbname postgres --create --exit-on-error --jobs 2 {{ folder }}
{% endfor -%}
```
{% endfor %}{% endif %}
{%- if mongo %}
## 5. MongoDB

Set `MONGO_URI` to the new server, as in `mongodb://user@host/?authSource=admin`; it asks for the password.
{% for source, folder in mongo %}
```sh
mongorestore --uri "$MONGO_URI" --stopOnError --dir {{ folder }}
```
{% endfor %}{% endif %}
{%- if files %}
## 6. Files
{% for source, folder, path in files %}
{{ source }} was `{{ path }}`:

```sh
cp --archive {{ folder }}/. {{ path }}/
```
{% endfor %}{% endif %}
Then start the services, and check the system before people use it.
"""


def render(plan: Plan, set_id: str, verified: Sequence[Work]) -> str:
    """The guide for a set in staging.

    Args:
        plan: of the set.
        set_id: of the set.
        verified: the sources that the set has.
    """
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - Markdown, of our own names
    values: dict[str, Any] = {
        "plan": plan.plan,
        "set_id": set_id,
        "packs": [],
        "folders": [],
        "postgres": [],
        "mongo": [],
        "files": [],
        "config": [],
    }
    for work in verified:
        _describe(work, values)
    return environment.from_string(_TEMPLATE).render(values)


def _describe(work: Work, values: dict[str, list[Any]]) -> None:
    component, _, name = work.source_id.partition(".")
    folders: dict[str, str] = {}
    for artifact, packs in work.sealed_record().packs.items():
        folders[artifact] = f"restored/{component}/{name}/{safe_name(artifact)}"
        paths = [f"{component}/{name}/{pack.file}" for pack in packs]
        values["folders"].append((folders[artifact], paths))
        values["packs"] += [{"sha256": pack.sha256, "path": path} for pack, path in zip(packs, paths, strict=True)]
    settings = work.plan.source(work.source_id)
    if isinstance(settings, PostgresSource):
        values["postgres"].append(_postgres(work, folders))
    for folder in folders.values():
        if isinstance(settings, MongoSource):
            values["mongo"].append((work.source_id, folder))
        elif isinstance(settings, FilesSource):
            values["files"].append((work.source_id, folder, shlex.quote(str(settings.path))))
        elif isinstance(settings, ConfigSource):
            values["config"].append((work.source_id, folder, settings.paths))


def _postgres(work: Work, folders: dict[str, str]) -> dict[str, Any]:
    """What an artifact is shows in its members: a database has a table of contents, the globals are one SQL file."""
    members = {artifact: {name for _, name, _ in read_rows(work.members(artifact))} for artifact in folders}
    return {
        "version": work.dump_record().versions.get("server", "of the dump"),
        "globals": [folder for artifact, folder in folders.items() if "globals.sql" in members[artifact]],
        "databases": [folder for artifact, folder in folders.items() if "toc.dat" in members[artifact]],
    }
