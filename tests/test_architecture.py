"""The layout says what it is: a purpose a folder, a kind of source in its own places, references in docstrings that resolve."""

import importlib
import io
import re
import tokenize
import tomllib
from pathlib import Path

import pytest

from recovery.plan.kinds import KINDS
from recovery.sources import registry
from tools.tree import packages, tree

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "include/recovery"
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def title(path):
    return str(path.relative_to(ROOT))


def test_every_package_has_a_one_line_docstring():
    for folder, purpose in packages(PACKAGE):
        assert re.fullmatch(r".+", purpose), f"{title(folder)}/__init__.py needs a docstring of one line"


def test_architecture_page_tree_equals_package_docstrings():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    written = re.findall(r"<!-- tree -->\n(.*?)<!-- /tree -->", page, re.DOTALL)
    assert written == [tree(PACKAGE)], "run: python tools/tree.py"


# Kinds --------------------------------------------------------------------------------------------------------------

ELSEWHERE = {
    "config": {
        *("airflow/restore_form.py", "restore/report/facts.py", "restore/source_view.py"),  # the choice of a restore
        *("sources/mongo/catalog.py", "sources/mongo/renames.py"),  # MongoDB has a database of that name
    },
    "files": {"plan/source_settings.py"},  # the family of trees
}
"""Where a kind's name means something else."""


def names_a_kind(token, kind):
    if token.type == tokenize.NAME:
        return token.string == kind and kind in {"postgres", "mongo"}
    return token.type == tokenize.STRING and re.fullmatch(rf"[frb]*['\"]{kind}(\..*)?['\"]", token.string) is not None


@pytest.mark.parametrize("kind", KINDS)
def test_kind_name_occurs_only_in_modules_of_that_kind(kind):
    own = (f"sources/{kind}/", f"plan/kinds/{kind}.py", "sources/trees/" if kind == "files" else "\0")
    found = []
    for path in MODULES:
        where = str(path.relative_to(PACKAGE))
        if where.startswith(own) or where in ELSEWHERE.get(kind, ()):
            continue
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        found += [f"{where}:{token.start[0]}: {token.line.strip()}" for token in tokens if names_a_kind(token, kind)]
    assert not found


def test_source_packages_equal_the_kinds_with_plan_settings():
    folders = {path.parent.name for path in (PACKAGE / "sources").glob("*/__init__.py")} - {"trees"}
    assert folders == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_registry_resolves_source_class_guide_and_scratch_server_of_every_kind(kind):
    assert registry.source_class(kind).kind == kind
    assert registry.guide(kind).title
    assert registry.scratch_server(kind) is None or registry.scratch_server(kind).endings


def test_import_contracts_list_every_kind():
    """Both lists are written by hand, and a kind that they lack could import whatever it likes."""
    contracts = {each["name"]: each for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]}
    layer = contracts["Kinds of source don't know each other"]["layers"][1]
    assert set(layer.split(" | ")) == set(KINDS)
    forbidden = contracts["The engine reaches a kind through the registry"]["forbidden_modules"]
    assert set(forbidden) == {f"recovery.sources.{name}" for name in (*KINDS, "trees")}


def test_no_message_promises_that_a_task_is_tried_again():
    """Airflow alone knows: a restore's tasks have no retries, an error may not be worth one, and the command line has none."""
    promise = re.compile(r"\bthe task is tried again|retries left", re.IGNORECASE)
    assert [title(path) for path in MODULES if promise.search(path.read_text(encoding="utf-8"))] == []


# References in docstrings -------------------------------------------------------------------------------------------

ROLE = re.compile(r":(?:class|meth|func|mod|attr|data|exc):`~?\.?([\w.]+)(?:\(\))?`")


def found_in(module, name):
    """Whether a name can be resolved in a module: its own, what it imports, or a member of one of its classes."""
    target = module
    for part in name.split("."):
        if not hasattr(target, part) and part not in getattr(target, "model_fields", {}) and part not in annotations_of(target):
            return False
        target = getattr(target, part, None)
    return True


def annotations_of(target):
    return {name for each in getattr(target, "__mro__", ()) for name in getattr(each, "__annotations__", {})}


def resolves(module, reference):
    parts = reference.split(".")
    for size in range(len(parts), 0, -1):
        try:
            target = importlib.import_module(".".join(parts[:size]))
        except ImportError:
            continue
        return size == len(parts) or found_in(target, ".".join(parts[size:]))
    if found_in(module, reference):
        return True
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    return any(found_in(each, reference) for each in classes)


@pytest.mark.parametrize("path", MODULES, ids=title)
def test_docstring_references_resolve(path):
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    if name.endswith("__main__"):
        return
    text = path.read_text(encoding="utf-8")
    if references := ROLE.findall(text):
        module = importlib.import_module(name)
        assert not [each for each in references if not resolves(module, each)]


def test_docstring_reference_to_a_missing_name_is_detected():
    module = importlib.import_module("recovery.sources.base")
    assert not resolves(module, "recovery.sources.base.Nothing")
    assert not resolves(module, "Source.nothing")
    assert resolves(module, "recovery.sources.base.Dumper.dump")
