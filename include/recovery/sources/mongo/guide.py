"""How to get MongoDB back by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recovery.sources.guide import Guide, GuidedSource, quoted

_TEMPLATE = """\
Set `MONGO_URI` to the new server, as in `mongodb://user@host/?authSource=admin`; it asks for the password.
MongoDB deletes documents that are older than the TTL of their collection within a minute of loading them: start the server with
`--setParameter ttlMonitorEnabled=false` until you have looked at them.
{% for source in sources %}{% for folder, version in source.dumps %}
```sh
mongorestore --uri "$MONGO_URI" --stopOnError --bypassDocumentValidation --dir {{ folder }}
```

mongorestore may write the fields inside an index's options in another order than they had. That matters in wildcard projections and
in partial filters on subdocuments: compare such indexes with the `*.metadata.json` files there, and make anew those that differ.
It may stop at a definition whose `*.metadata.json` has the key `bson`, which is that whole file as BSON: take the file away, load the
rest, and make that collection or view by hand.
{% if version %}
Its users and roles lie beside the databases that they belong to. mongorestore wants them in one place, and adds them to the server's:

```sh
mkdir -p {{ folder }}-accounts/admin
cat {{ folder }}/*/'$admin.system.users.bson' > {{ folder }}-accounts/admin/system.users.bson
cat {{ folder }}/*/'$admin.system.roles.bson' > {{ folder }}-accounts/admin/system.roles.bson
cp {{ version }} {{ folder }}-accounts/admin/system.version.bson
mongorestore --uri "$MONGO_URI" --stopOnError --dir {{ folder }}-accounts
```
{% endif %}{% endfor %}{% endfor %}"""


def _describe(source: GuidedSource) -> Mapping[str, Any]:
    return {"dumps": [(folder, _accounts_version(source, artifact)) for artifact, folder in source.folders.items()]}


def _accounts_version(source: GuidedSource, artifact: str) -> str | None:
    """Path of a file with the version of a dump's accounts, where these lie beside their databases.

    See :mod:`recovery.sources.mongo.accounts`.
    """
    paths = (name for _, name, _ in source.members(artifact) if name.endswith("/$admin.system.version.bson"))
    first = min(paths, default=None)
    return None if first is None else quoted(f"{source.folders[artifact]}/{first}")


GUIDE = Guide("MongoDB", "MongoDB's `mongorestore`", _TEMPLATE, _describe)
