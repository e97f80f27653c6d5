"""How to get folders back by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recovery.sources.guide import Guide, GuidedSource, quoted

_TEMPLATE = """\
{% for source in sources %}{% for folder in source.folders %}{{ source.id }} was `{{ source.path }}`:

```sh
mkdir -p {{ source.path }}
cp --archive {{ folder }}/. {{ source.path }}/
```
{% endfor %}{% endfor %}"""


def _describe(source: GuidedSource) -> Mapping[str, Any]:
    return {"id": source.id, "path": quoted(source.settings.roots()[0]), "folders": source.folders.values()}


GUIDE = Guide("Files", "", _TEMPLATE, _describe, as_root=True)
