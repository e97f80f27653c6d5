"""The order of a load, and as whom each entry is restored; without a server."""

import pytest

from recovery.sources.postgres.accounts.loaders import EVERYONE, OURS
from recovery.sources.postgres.databases.entries import in_steps, read_entries


def entries(*lines, owners=("a", "b"), catalog=0, **options):
    found = read_entries([f"{number}; {catalog} 16384 {line}" for number, line in enumerate(lines)], owners, "utf-8", **options)
    return in_steps(list(found))


def shown(steps):
    return [(step.loader, [f"{entry.what} {entry.name}" for entry in step.entries]) for step in steps]


def test_schemas_and_extensions_come_before_what_others_could_put_into_them():
    steps = entries("FUNCTION s f() a", "SCHEMA - t b", "EXTENSION - x ", "COMMENT - EXTENSION x ", "SCHEMA - s a", "TABLE s t a")
    assert shown(steps.schemas) == [("a", ["SCHEMA - s"]), ("b", ["SCHEMA - t"])]
    assert shown(steps.extensions) == [(OURS, ["EXTENSION - x", "COMMENT - EXTENSION x"])]
    assert shown(steps.definitions) == [("a", ["FUNCTION s f()", "TABLE s t"])]


def test_definitions_keep_their_order_and_rows_are_gathered_by_owner():
    steps = entries(
        "TABLE s t a", "TABLE s u b", "TABLE s v a", "TABLE DATA s t a", "TABLE DATA s u b", "TABLE DATA s v a", "BLOBS - BLOBS "
    )
    assert [loader for loader, _ in shown(steps.definitions)] == ["a", "b", "a"]
    assert shown(steps.rows) == [
        ("a", ["TABLE DATA s t", "TABLE DATA s v"]),
        ("b", ["TABLE DATA s u"]),
        (EVERYONE, ["BLOBS - BLOBS"]),
    ]


def test_rights_come_after_everything_and_event_triggers_after_rights():
    steps = entries(
        "TABLE s t a", "ACL s TABLE t a", "TABLE DATA s t a", "EVENT TRIGGER - e b", "INDEX s i a", "COMMENT - EVENT TRIGGER e b"
    )
    assert shown(steps.definitions) == [("a", ["TABLE s t"])]
    assert shown(steps.rest) == [("a", ["INDEX s i"])]
    assert shown(steps.rights) == [(OURS, ["ACL s TABLE t"])]
    assert shown(steps.event_triggers) == [(OURS, ["EVENT TRIGGER - e", "COMMENT - EVENT TRIGGER e"])]


@pytest.mark.parametrize(
    ("lines", "steps"),
    [
        (["INDEX s i a", "RULE s r a", "FK CONSTRAINT s t f a"], [("a", False, 3)]),
        (["INDEX s i a", "INDEX s j b", "INDEX s k a", "FK CONSTRAINT s t f a"], [("a", False, 2), ("b", False, 1), ("a", False, 1)]),
        (["INDEX s i a", "INDEX ATTACH s j a", "RULE s r a", "TRIGGER s t a", "TRIGGER s t b", "FK CONSTRAINT s t f b"], None),
    ],
)
def test_index_attachments_and_triggers_are_restored_alone_and_the_rest_side_by_side(lines, steps):
    found = [(step.loader, step.alone, len(step.entries)) for step in entries("TABLE DATA s t a", *lines).rest]
    assert found == (steps or [("a", False, 1), ("a", True, 1), ("a", False, 1), ("a", True, 1), ("b", True, 1), ("b", False, 1)])


def test_longest_matching_owner_wins_and_an_entry_without_owner_belongs_to_everyone():
    steps = entries("TABLE s t my b", "BLOB - 1 ", owners=("b", "my b"))
    assert shown(steps.definitions) == [("my b", ["TABLE s t"]), (EVERYONE, ["BLOB - 1"])]


def test_entries_that_need_a_superuser_are_made_by_ourselves():
    lines = ["OPERATOR CLASS s o a", "FUNCTION s f(integer, text) a", "FUNCTION s g() a", "COMMENT - SCHEMA public a", "PUBLICATION - p a"]
    steps = entries(*lines, ours={"FUNCTION s f(integer,text)"})
    assert [(loader, len(names)) for loader, names in shown(steps.definitions)] == [(OURS, 2), ("a", 1), (OURS, 2)]


@pytest.mark.parametrize(
    ("catalog", "line", "what"),
    [(1259, "TABLE DATA t a", "TABLE"), (2617, "OPERATOR CLASS = a", "OPERATOR"), (2604, "DEFAULT ACL v n a", "DEFAULT")],
)
def test_schema_that_is_named_like_a_part_of_a_kind_makes_no_other_kind(catalog, line, what):
    assert [(step.loader, [entry.what for entry in step.entries]) for step in entries(line, catalog=catalog).definitions] == [("a", [what])]


def test_tables_with_a_parent_of_another_owner_are_made_or_attached_by_their_family():
    attaching = {"TABLE s u b": "f", "TABLE ATTACH s u b": "f", "TABLE s v b": "f", "INDEX ATTACH s i": "f", "INDEX ATTACH s j": "b"}
    tables = ["TABLE s t a", "TABLE s u b", "TABLE s v b", "TABLE ATTACH s u b", "TABLE DATA s u b"]
    steps = entries(*tables, "INDEX ATTACH s i ", "INDEX ATTACH s j ", attaching=attaching)
    assert shown(steps.definitions) == [("a", ["TABLE s t"]), ("b", ["TABLE s u"]), ("f", ["TABLE s v", "TABLE ATTACH s u"])]
    assert [step.loader for step in steps.rest] == ["f", "b"]
