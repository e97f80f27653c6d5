"""``RESTORE.md``: how to get exactly this set back with stock tools alone, on the day when nothing else is left."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from recovery.backup.steps import Work
from recovery.packs.content_index import read_rows
from recovery.packs.pack import safe_name
from recovery.plan.kinds import KINDS
from recovery.plan.model import Plan
from recovery.plan.source_id import kind_of
from recovery.sets.layout import CONTENTS_FILE, PACKS_FILE, pack_path
from recovery.sets.manifest import describe_file
from recovery.sources import registry
from recovery.sources.guide import GuidedSource
from recovery.sources.guide import render as fill_in

_TEMPLATE = """\
# How to restore set {{ set_id }} of {{ plan }} by hand

You need the folder of this set, `age`, `zstd`, GNU `tar`, `openssl`, `sha256sum`,\
{% for guide, _ in guides if guide.tools %} {{ guide.tools }},{% endfor %}
a shell with `cat`, `cp`, `grep` and `mkdir`,
and from the recovery kit `identity.txt` (opens the packs) and `public.pem` (tells whether this set is genuine).

1. Copy the set's folder, all of it, to a disk where nobody else can write. In a bucket, do that with whatever tool the bucket has.
2. Make a new folder on an encrypted disk, and run everything there. In the set's folder somebody may have put more than the set.
3. Set `SET` to the path of the copy, and `KIT` to the path of the recovery kit. Take no key from the set's folder.

## 1. Is it genuine and whole?

```sh
openssl pkeyutl -verify -pubin -inkey "$KIT/public.pem" -rawin -in "$SET/manifest.json" -sigfile "$SET/manifest.json.sig"
```

Stop if this does not print `Signature Verified Successfully`. The manifest vouches for this text: both of these must name the same SHA-256.

```sh
grep -A 3 '"instructions": {' "$SET/manifest.json"; sha256sum "$SET/RESTORE.md"
```

And this text vouches for the rest:

```sh
(cd "$SET" && sha256sum --check) <<'END'
{% for path, sha256 in checked -%}
{{ sha256 }}  {{ path }}
{% endfor -%}
END
```

## 2. Unpack

Packs of one artifact go into one folder, in any order.
{%- if as_root %} Do this, and all that copies from there, as root: for any other user everything becomes that user's own,
and nothing says that the owners are lost.
{%- endif %}

```sh
mkdir -p restored
{% for folder, files in unpacked.items() -%}
mkdir -p {{ folder }}
{% for file in files -%}
age --decrypt --identity "$KIT/identity.txt" "$SET/{{ file }}" | zstd --decompress \\
  | tar --extract --preserve-permissions --numeric-owner --xattrs --xattrs-include='*' --directory {{ folder }}
{% endfor -%}
{% endfor -%}
```

`restored/` now holds everything, secrets included: remove it afterwards.
{% for guide, sources in guides %}
## {{ loop.index + 2 }}. {{ guide.title }}

{{ guide.section(sources) }}{% endfor %}
Then start the services, and check the system before people use it.
"""


def render(plan: Plan, set_id: str, verified: Sequence[Work]) -> str:
    """The guide for a set in staging.

    Args:
        plan: of the set.
        set_id: of the set.
        verified: the sources that the set has.
    """
    works = sorted(verified, key=lambda work: list(KINDS).index(kind_of(work.source_id)))
    sources = {work.source_id: _guided(work) for work in works}
    guides = [(registry.guide(kind), [sources[name] for name in names]) for kind, names in groupby(sources, kind_of)]
    packs = [
        (work.source_id, artifact, pack) for work in works for artifact, all_of in work.sealed_record().packs.items() for pack in all_of
    ]
    unpacked: dict[str, list[str]] = {folder: [] for source in sources.values() for folder in source.folders.values()}
    for source_id, artifact, pack in packs:
        unpacked[sources[source_id].folders[artifact]].append(pack_path(source_id, pack.file))
    checked = [(pack_path(source_id, pack.file), pack.sha256) for source_id, _, pack in packs]
    checked += [(name, describe_file(verified[0].staged.set_folder / name).sha256) for name in (PACKS_FILE, CONTENTS_FILE)]
    as_root = any(guide.as_root for guide, _ in guides)
    return fill_in(_TEMPLATE, plan=plan.plan, set_id=set_id, checked=checked, unpacked=unpacked, guides=guides, as_root=as_root)


def _guided(work: Work) -> GuidedSource:
    return GuidedSource(
        id=work.source_id,
        settings=work.plan.source(work.source_id),
        versions=work.dump_record().versions,
        folders={artifact: f"restored/{pack_path(work.source_id, safe_name(artifact))}" for artifact in work.sealed_record().packs},
        members=lambda artifact: read_rows(work.members(artifact)),
        contents=lambda artifact, kind: read_rows(work.contents(artifact), kind),
    )
