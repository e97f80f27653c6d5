"""How to get named files and folders back by hand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recovery.sources.guide import Guide, GuidedSource, quoted

_TEMPLATE = """\
{% for source in sources %}{% for folder, paths in source.folders %}{{ source.id }} lies in `{{ folder }}` under the paths that it had. \
Compare before you replace anything: an old `.env` has old passwords.
This brings back what is missing, and leaves what is there:

```sh
{% for path, parent, copy in paths -%}
mkdir -p {{ parent }}
cp --archive --no-clobber {{ copy }} {{ parent }}/
{% endfor -%}
```
{% endfor %}{% endfor %}"""


def _describe(source: GuidedSource) -> Mapping[str, Any]:
    named = source.settings.roots()
    return {"id": source.id, "folders": [(folder, [_copied(path, folder) for path in named]) for folder in source.folders.values()]}


def _copied(path: Path, folder: str) -> tuple[str, str, str]:
    """A path, its folder, and its copy below a folder, as a shell takes them."""
    return quoted(path), quoted(path.parent), quoted(f"{folder}{path}")


GUIDE = Guide("Configuration", "", _TEMPLATE, _describe, as_root=True)
