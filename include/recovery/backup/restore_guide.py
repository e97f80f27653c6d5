"""``RESTORE.md``: how to get exactly this set back with stock tools alone, on the day when nothing else is left."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from recovery.backup.steps import Work
from recovery.packs.content_index import read_rows
from recovery.packs.pack import safe_name
from recovery.plan.kinds.config import ConfigSource
from recovery.plan.kinds.files import FilesSource
from recovery.plan.kinds.mongo import MongoSource
from recovery.plan.kinds.postgres import PostgresSource
from recovery.plan.model import Plan
from recovery.sets.layout import CONTENTS_FILE, PACKS_FILE
from recovery.sets.manifest import describe_file

_TEMPLATE = """\
# How to restore set {{ set_id }} of {{ plan }} by hand

You need this folder, `age`, `zstd`, GNU `tar`, `openssl`, `sha256sum`,{% if postgres %} PostgreSQL's `psql` and `pg_restore`,{% endif %}\
{% if mongo %} MongoDB's `mongorestore`,{% endif %}
a shell with `cat`, `cp`, `grep` and `mkdir`,
and from the recovery kit `identity.txt` (opens the packs) and `public.pem` (tells whether this set is genuine).
Run everything in this folder. If it is in a bucket, copy it to a disk first, all of it, with whatever tool the bucket has.

## 1. Is it genuine and whole?

```sh
openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in manifest.json -sigfile manifest.json.sig
```

Stop if this does not print `Signature Verified Successfully`. The manifest vouches for this text: both of these must name the same SHA-256.

```sh
grep -A 3 '"instructions": {' manifest.json; sha256sum RESTORE.md
```

And this text vouches for the rest:

```sh
sha256sum --check <<'END'
{% for file in checked -%}
{{ file.sha256 }}  {{ file.path }}
{% endfor -%}
END
```

## 2. Unpack

Packs of one artifact go into one folder, in any order.
{%- if files or config %} Do this, and all that copies from there, as root: for any other user everything becomes that user's own,
and nothing says that the owners are lost.
{%- endif %}

```sh
mkdir -p restored
{% for folder, files in folders -%}
mkdir -p {{ folder }}
{% for file in files -%}
age --decrypt --identity identity.txt {{ file }} | zstd --decompress \\
  | tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*' --directory {{ folder }}
{% endfor -%}
{% endfor -%}
```

`restored/` now holds everything, secrets included: keep it on an encrypted disk, and remove it afterwards.
{% if config %}
## 3. Configuration
{% for source, folder, paths in config %}
{{ source }} lies in `{{ folder }}` under the paths that it had. Compare before you replace anything: an old `.env` has old passwords.
This brings back what is missing, and leaves what is there:

```sh
{% for path, parent, copy in paths -%}
mkdir -p {{ parent }}
cp --archive --no-clobber {{ copy }} {{ parent }}/
{% endfor -%}
```
{% endfor %}{% endif %}
{%- if postgres %}
## 4. PostgreSQL

Set `PGHOST`, `PGPORT`, `PGUSER` (a superuser) and `PGPASSWORD` for the new server, version {{ postgres[0].version }} or later.
Roles first, all but yours, which keeps its password; complaints about roles that exist already are expected, everything else is not.
{% for source in postgres %}
```sh
{% for folder in source.globals -%}
grep -v -E "^(CREATE|ALTER) ROLE \\"?$PGUSER\\"?( WITH|;)" {{ folder }}/globals.sql | psql --dbname postgres
{% endfor -%}
{% for folder, through in source.databases -%}
pg_restore --dbname {{ through }} --create --exit-on-error --jobs 2 {{ folder }}
{% endfor -%}
```
{% endfor %}{% endif %}
{%- if mongo %}
## 5. MongoDB

Set `MONGO_URI` to the new server, as in `mongodb://user@host/?authSource=admin`; it asks for the password.
MongoDB deletes documents that are older than the TTL of their collection within a minute of loading them: start the server with
`--setParameter ttlMonitorEnabled=false` until you have looked at them.
{% for source, folder, version in mongo %}
```sh
mongorestore --uri "$MONGO_URI" --stopOnError --bypassDocumentValidation --dir {{ folder }}
```

mongorestore may write the fields inside an index's options in another order than they had. That matters in wildcard projections and
in partial filters on subdocuments: compare such indexes with the `*.metadata.json` files there, and make anew those that differ.
{% if version %}
Its users and roles lie beside the databases that they belong to. mongorestore wants them in one place, and adds them to the server's:

```sh
mkdir -p {{ folder }}-accounts/admin
cat {{ folder }}/*/'$admin.system.users.bson' > {{ folder }}-accounts/admin/system.users.bson
cat {{ folder }}/*/'$admin.system.roles.bson' > {{ folder }}-accounts/admin/system.roles.bson
cp {{ version }} {{ folder }}-accounts/admin/system.version.bson
mongorestore --uri "$MONGO_URI" --stopOnError --dir {{ folder }}-accounts
```
{% endif %}{% endfor %}{% endif %}
{%- if files %}
## 6. Files
{% for source, folder, path in files %}
{{ source }} was `{{ path }}`:

```sh
mkdir -p {{ path }}
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
        "checked": [],
        "folders": [],
        "postgres": [],
        "mongo": [],
        "files": [],
        "config": [],
    }
    for work in verified:
        _describe(work, values)
    for name in (PACKS_FILE, CONTENTS_FILE):
        values["checked"].append({"sha256": describe_file(verified[0].staged.set_folder / name).sha256, "path": name})
    return environment.from_string(_TEMPLATE).render(values)


def _describe(work: Work, values: dict[str, list[Any]]) -> None:
    component, _, name = work.source_id.partition(".")
    folders: dict[str, str] = {}
    for artifact, packs in work.sealed_record().packs.items():
        folders[artifact] = f"restored/{component}/{name}/{safe_name(artifact)}"
        paths = [f"{component}/{name}/{pack.file}" for pack in packs]
        values["folders"].append((folders[artifact], paths))
        values["checked"] += [{"sha256": pack.sha256, "path": path} for pack, path in zip(packs, paths, strict=True)]
    settings = work.plan.source(work.source_id)
    if isinstance(settings, PostgresSource):
        values["postgres"].append(_postgres(work, folders))
    for folder in folders.values():
        if isinstance(settings, MongoSource):
            values["mongo"].append((work.source_id, folder, _accounts_version(work, folder)))
        elif isinstance(settings, FilesSource):
            values["files"].append((work.source_id, folder, shlex.quote(str(settings.path))))
        elif isinstance(settings, ConfigSource):
            values["config"].append((work.source_id, folder, [_quoted(path, folder) for path in settings.paths]))


def _postgres(work: Work, folders: dict[str, str]) -> dict[str, Any]:
    """What an artifact is shows in its members: a database has a table of contents, the globals are one SQL file."""
    members = {artifact: {name for _, name, _ in read_rows(work.members(artifact))} for artifact in folders}
    databases = [artifact for artifact in folders if "toc.dat" in members[artifact]]
    return {
        "version": work.dump_record().versions.get("postgres", "of the dump"),
        "globals": [folder for artifact, folder in folders.items() if "globals.sql" in members[artifact]],
        "databases": [(folders[artifact], _through(work, artifact)) for artifact in databases],
    }


def _through(work: Work, artifact: str) -> str:
    """Where to connect to make a database. The one named postgres is there already, and empty: it is made anew."""
    names = {name for _, name, _ in read_rows(work.contents(artifact), "database")}
    return "template1 --clean --if-exists" if "postgres" in names else "postgres"


def _accounts_version(work: Work, folder: str) -> str | None:
    """Path of a file with the version of a dump's accounts, where these lie beside their databases.

    See :mod:`recovery.sources.mongo.accounts`.
    """
    (artifact,) = work.sealed_record().packs
    paths = (name for _, name, _ in read_rows(work.members(artifact)) if name.endswith("/$admin.system.version.bson"))
    first = min(paths, default=None)
    return None if first is None else shlex.quote(f"{folder}/{first}")


def _quoted(path: Path, folder: str) -> tuple[str, str, str]:
    """A path, its folder, and its copy below a folder, as a shell takes them."""
    return shlex.quote(str(path)), shlex.quote(str(path.parent)), shlex.quote(f"{folder}{path}")
