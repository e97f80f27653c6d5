"""The documentation says what is so: every key and default of a plan, and links, commands and tests that exist."""

import argparse
import re
import typing
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from recovery.cli.main import command_line
from recovery.common.units import parse_duration, parse_size
from recovery.plan.loader import plan_schema
from recovery.plan.model import Plan

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("plugins/*.md"),
        *(ROOT / "include/recovery/airflow/dag_docs").glob("*.md"),
    ]
)
PLAN_PAGE = ROOT / "docs/reference/plan.md"
BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SHARED = {"Services": "services", "Hook": "hook", "Check": "check", "Reach": "reach"}
"""Parts that a plan has in several places, documented once, under these keys."""
ROW = re.compile(r"^\| `([a-z0-9_.<>\[\]]+)` \| .+? \| (required|`[^`]*`) \| (.+) \|$", re.MULTILINE)


def read(page):
    return page.read_text(encoding="utf-8")


def title(page):
    return str(page.relative_to(ROOT))


def documented():
    return {key: default for key, default, _ in ROW.findall(read(PLAN_PAGE))}


# Plan reference


def keys_of_schema(node, schema, path=""):
    """Every key of the JSON Schema, with ``<name>`` for keys of one's choice and ``[]`` for items of lists."""
    if "$ref" in node:
        part = node["$ref"].rpartition("/")[2]
        node, path = schema["$defs"][part], SHARED.get(part, path)
    for choice in node.get("anyOf", []):
        yield from keys_of_schema(choice, schema, path)
    for name, inner in node.get("properties", {}).items():
        key = f"{path}.{name}".lstrip(".")
        yield key
        yield from keys_of_schema(inner, schema, key)
    for inner in node.get("patternProperties", {}).values():
        yield from keys_of_schema(inner, schema, f"{path}.<name>")
    if isinstance(node.get("items"), dict):
        yield from keys_of_schema(node["items"], schema, f"{path}[]")


def defaults_of(model, path=""):
    """The default of every key, as the code has it; ``PydanticUndefined`` where there is none."""
    for name, field in model.model_fields.items():
        key = f"{path}.{field.alias or name}".lstrip(".")
        yield key, field.default
        yield from _inside(field.annotation, key)


def _inside(kind, key):
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield from defaults_of(kind, SHARED.get(kind.__name__, key))
    elif origin is dict:
        yield from _inside(arguments[1], f"{key}.<name>")
    elif origin is tuple:
        yield from _inside(arguments[0], f"{key}[]")
    elif origin is typing.Annotated:
        yield from _inside(arguments[0], key)
    else:
        for argument in arguments:
            if argument is not Ellipsis:
                yield from _inside(argument, key)


def as_documented(text, like):
    """A default as the page writes it, as a value of the kind that the code has."""
    if isinstance(like, timedelta):
        return parse_duration(text)
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    if isinstance(like, int):
        return parse_size(text)
    if isinstance(like, Path):
        return Path(text)
    if isinstance(like, tuple):
        return tuple(yaml.safe_load(text))
    if like is None or isinstance(like, (dict, BaseModel)):
        return {"null": None, "{}": {}}[text]
    return "" if text == '""' else text


def test_plan_page_documents_every_plan_key_and_no_other_key():
    schema = plan_schema()
    assert sorted(documented()) == sorted(set(keys_of_schema(schema, schema)))


@pytest.mark.parametrize(("key", "default"), sorted(dict(defaults_of(Plan)).items()), ids=lambda value: str(value)[:40])
def test_documented_plan_defaults_equal_code_defaults(key, default):
    said = documented()[key]
    if default is PydanticUndefined:
        assert said == "required"
        return
    found = as_documented(said.strip("`"), default)
    if isinstance(default, BaseModel):
        assert found == {}
        assert default == type(default)()
    else:
        assert found == default


def test_wrong_documented_default_is_detected():
    assert as_documented("2h", timedelta(hours=2)) != timedelta(hours=3)
    assert as_documented("1GiB", 1 << 30) == Plan.model_fields["pack"].default
    with pytest.raises(KeyError):
        as_documented("none", None)


# Links, commands, tests


def anchors(page):
    """What a heading is called in a link, as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_page_links_resolve(page):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", read(page))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_page_pictures_exist_and_are_small(page):
    for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", read(page)):
        picture = page.parent / link
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 300_000


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_make_targets_named_on_a_page_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|=\S+ )make ([a-z-]+)", read(page), re.MULTILINE))
    assert named <= targets


def commands(parser, words=()):
    """Every complete command of a parser, as its words."""
    areas = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not areas:
        yield words
    for area in areas:
        for name, inner in area.choices.items():
            yield from commands(inner, (*words, name))


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_cli_commands_named_on_a_page_exist(page):
    known = {words[:2] for words in commands(command_line())}
    named = re.findall(r"(?:`|^|bin/)recovery ([a-z]+)(?: ([a-z]+))?", read(page), re.MULTILINE)
    assert "python -m recovery" not in read(page), "that imports what lies in the working folder"
    assert not [words for words in named if words not in known and words[:1] not in known]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_project_files_named_on_a_page_exist(page):
    files = re.findall(r"(?<![\w/.])((?:tests|dags|include|sandbox|tools)/[\w./-]*\w)", read(page))
    assert not [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("page", PAGES, ids=title)
def test_tests_named_on_a_page_exist(page):
    text = read(page)
    missing = [
        f"{file}::{name}" for file, name in re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", text) if f"def {name}(" not in read(ROOT / file)
    ]
    assert not missing


def test_readme_names_every_page_of_docs():
    text = read(ROOT / "README.md")
    assert not [title(page) for page in (ROOT / "docs").rglob("*.md") if title(page) not in text]
