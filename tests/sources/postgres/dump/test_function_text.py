"""What is seen in the texts of functions."""

import pytest

from recovery.sources.postgres.dump.function_text import mentions


def seen(text, kind):
    return {f"{schema}.{name}" if schema else name for found, schema, name in mentions(text).names if found == kind}


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("SELECT a, b FROM t, s.u x, ONLY v WHERE a IN (b, c)", {"t", "s.u", "v"}),
        ('SELECT 1 FROM "T ""x""" JOIN LATERAL (SELECT a, b FROM (u CROSS JOIN v), w) y ON a, z', {'T "x"', "u", "v", "w"}),
        ("INSERT INTO t (a, b) VALUES (c, d); UPDATE u SET a = b, c = d; DELETE FROM v", {"t", "u", "v"}),
        ("WITH a AS (SELECT 1 FROM t), b AS MATERIALIZED (SELECT 2 FROM a) SELECT 3 FROM b, c.a", {"t", "c.a"}),
        ("SELECT FROM t -- , u\n/* , v */ , w", {"t", "w"}),
        ("EXECUTE 'SELECT 1 FROM t' || $q$ FROM u $q$ || E'\\' FROM v' || 'it''s FROM w'", set()),
        ("DECLARE x s.t.a%TYPE; y u.a%TYPE; z v%ROWTYPE; BEGIN", {"s.t", "t.a", "u", "u.a", "v"}),
        ("SELECT 'not closed FROM t", set()),
        ("SELECT $a$ not closed FROM t", set()),
        ("/* not closed FROM t", set()),
    ],
)
def test_tables_are_seen_where_a_statement_has_tables(text, tables):
    assert seen(text, "relation") == tables


def test_functions_types_operators_and_configurations_are_seen_by_what_stands_beside_them():
    text = "DECLARE m mood; BEGIN RETURN f (a) === s.\"G\"(b)::kind AND to_tsvector('words', 'more') @@ x"
    assert seen(text, "function") == {"f", "s.G", "to_tsvector"}
    assert seen(text, "type") == {"mood", "kind"}
    assert {"===", "@@"} < seen(text, "operator")
    assert seen(text, "text search") == {"words"}


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("SELECT now()", True),
        ("SELECT pg_catalog.NOW ()", True),
        ("x < CURRENT_DATE", True),
        ("SELECT now", False),
        ("SELECT 'now()'", False),
    ],
)
def test_question_for_the_time_is_seen_outside_of_texts(text, asks):
    assert mentions(text).asks is asks


@pytest.mark.parametrize("part", ["$a", "$a$", "/*", "'", '"', "a.", "(", "a AS (", "E'\\", "FROM a,"])
def test_text_that_repeats_one_beginning_is_read_to_its_end(part):
    """As an owner could write it to keep a backup busy."""
    assert mentions(part * 30_000).asks is False
