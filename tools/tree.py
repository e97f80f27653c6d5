"""Writes the tree of folders in ``docs/architecture.md``: each folder of the package with the purpose that its docstring says.

Run it after a folder is added or its purpose changes: ``python tools/tree.py``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "include" / "recovery"
PAGE = ROOT / "docs" / "architecture.md"


def packages(root: Path) -> Iterator[tuple[Path, str]]:
    """``(folder, purpose)`` of every package below a folder, by name."""
    for init in sorted(root.rglob("__init__.py")):
        if init.parent != root:
            yield init.parent, ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""


def tree(root: Path) -> str:
    """The folders as a Markdown code block."""
    lines = []
    for folder, purpose in packages(root):
        indent = 2 * (len(folder.relative_to(root).parts) - 1)
        lines.append(" " * indent + f"{folder.name}/".ljust(20 - indent) + purpose)
    return "\n".join(["```", *lines, "```"]) + "\n"


def main() -> None:
    """Write the tree between its two marks."""
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(
        re.sub(r"(<!-- tree -->\n).*?(<!-- /tree -->)", lambda found: found[1] + tree(PACKAGE) + found[2], text, flags=re.DOTALL)
    )


if __name__ == "__main__":
    main()
