"""Reading a YAML file that may hold anything: what no plan needs is refused where it shows, before it is put together.

A plan is texts, numbers, lists and objects with keys, written once. Aliases are refused, not counted: a plan needs none, since
``${NAME:-default}`` writes a value once, and eight levels of them are a million values. Explicit tags are refused too: quotes say
that a value is a text, and each other tag has a way to fail of its own.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import Composer

MAX_BYTES = 64 * 1024
"""Of a file, and of all of its texts once variables are filled in. The plan that ships has 2 KiB."""
MAX_VALUES = 2_000
"""Keys and values of a file. The plan that ships has about a hundred."""
MAX_DEPTH = 40
LONGEST_KEY = 200
"""Characters. What is wrong with a value is told with all the keys above it."""
LONGEST_NUMBER = 40
"""Characters of what is no text: numbers, dates, true, false, null."""
_TEXT = "tag:yaml.org,2002:str"
_FLOAT = "tag:yaml.org,2002:float"


def read_yaml(path: Path) -> Any:
    """The one document of a file.

    Raises:
        ValueError: if it can't be read, or has what no plan needs. The message is a sentence whose subject is the file.
    """
    try:
        text = _content(path).decode("utf-8")
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8: the byte {error.start + 1} does not belong there") from error
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"is not readable YAML: {_with_place(error)}") from error


def _with_place(error: yaml.YAMLError) -> str:
    """What is wrong, after the place where it is."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.MarkedYAMLError) and mark:
        what = ", ".join(part for part in (error.context, error.problem) if part)
        return f"line {mark.line + 1}, column {mark.column + 1}: {what}"
    if isinstance(error, yaml.reader.ReaderError):
        return f"byte {error.position + 1}: {error.reason}"
    return " ".join(str(error).split())


def _content(path: Path) -> bytes:
    _refuse_special(path.stat())  # before it is opened: that alone makes some devices act
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:  # a pipe waits for its writer otherwise
        _refuse_special(os.fstat(file.fileno()))
        data = file.read(MAX_BYTES + 1) or b""
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB, which no plan needs")
    return data


def _refuse_special(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"is {'a folder' if stat.S_ISDIR(found.st_mode) else 'a pipe, a socket or a device'}; put a file there")


class _Loader(Composer, yaml.CSafeLoader):
    """Refuses while it reads.

    libyaml reads the text, five times as fast as Python: each task reads all plans. Python puts it together, since libyaml's binding
    ends the process where brackets are too deep.
    """

    def __init__(self, stream: str) -> None:
        yaml.CSafeLoader.__init__(self, stream)
        Composer.__init__(self)
        self._depth = self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Each value, before those inside it are looked at."""
        event: Any = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not allowed; write the value again, or as ${NAME:-default}", event.start_mark)
        if event.tag is not None:
            raise _refusal(f"tags such as {event.tag!r:.60} are not allowed; a text can be written in quotes", event.start_mark)
        self._values += 1
        if self._values > MAX_VALUES:
            raise _refusal(f"there are more than {MAX_VALUES} keys and values, which no plan needs", event.start_mark)
        if self._depth == MAX_DEPTH:
            raise _refusal(f"values are nested deeper than {MAX_DEPTH} levels, which no plan needs", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        """A value without others inside."""
        node = super().compose_scalar_node(anchor)
        if node.tag != _TEXT and len(node.value) > LONGEST_NUMBER:
            raise _refusal(f"a number has at most {LONGEST_NUMBER} characters; a text can be written in quotes", node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value as Python has it."""
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            why = f"{node.value!r} looks like a number, a date or a time, and is none; a text can be written in quotes"
            raise _refusal(why, node.start_mark) from error


def _refusal(why: str, where: Any) -> yaml.YAMLError:
    return yaml.constructor.ConstructorError(None, None, why, where)


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    """An object, no key of which is written twice: YAML itself would silently take the last."""
    keys = set()
    for key, _ in node.value:
        if key.tag != _TEXT:
            raise _refusal(f"a key must be a text, and this is {_shown(key)}; a text can be written in quotes", key.start_mark)
        if len(key.value) > LONGEST_KEY:
            raise _refusal(f"a key has at most {LONGEST_KEY} characters", key.start_mark)
        if key.value in keys:
            raise _refusal(f"the key {key.value!r:.60} is written twice", key.start_mark)
        keys.add(key.value)
    return loader.construct_mapping(node, deep=True)


def _shown(key: yaml.Node) -> str:
    return repr(key.value) if isinstance(key, yaml.ScalarNode) else "a list or an object"


def _number(loader: _Loader, node: yaml.ScalarNode) -> float:
    value: float = loader.construct_yaml_float(node)
    if not math.isfinite(value):
        raise _refusal(f"{node.value} is no number that can be compared or counted", node.start_mark)
    return value


def _text(loader: _Loader, node: yaml.ScalarNode) -> str:
    """Of ``=`` and ``<<``, where they are no keys."""
    return loader.construct_yaml_str(node)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
_Loader.add_constructor(_FLOAT, _number)
_Loader.add_constructor("tag:yaml.org,2002:value", _text)
_Loader.add_constructor("tag:yaml.org,2002:merge", _text)
