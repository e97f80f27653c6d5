"""What PostgreSQL writes before and after it read its own text, and what means something else."""

import pytest

from recovery.sources.postgres.definitions.expressions import canonical


@pytest.mark.parametrize(
    ("once", "again"),
    [
        (
            "CHECK (((status)::text = ANY ((ARRAY['new'::character varying, 'o(ld'::character varying(10)])::text[])))",
            "CHECK (((status)::text = ANY (ARRAY[('new'::character varying)::text, ('o(ld'::character varying(10))::text])))",
        ),
        (
            "((ARRAY['a'::character varying, CASE WHEN (b > 1) THEN x ELSE y END])::text[] && shop.f(c))",
            "(ARRAY[('a'::character varying)::text, (CASE WHEN (b > 1) THEN x ELSE y END)::text] && shop.f(c))",
        ),
        ("(EXISTS ( SELECT 'x'::text, NULL::text, 1))", "(EXISTS ( SELECT 'x'::text AS text, NULL::text AS text, 1))"),
        ("( SELECT '-1'::integer UNION SELECT 2)", "( SELECT '-1'::integer AS int4 UNION SELECT 2)"),
        ("(b IN ( SELECT 'a'::mood))", "(b IN ( SELECT 'a'::shop.\"mood\" AS mood))"),
        ("( SELECT 'a'::character varying(9)[])", "( SELECT 'a'::character varying(9)[] AS \"varchar\")"),
        ("( SELECT '1'::interval day to second(3))", "( SELECT '1'::interval day to second(3) AS \"interval\")"),
        ("( SELECT 'x'::timestamp(3) without time zone)", "( SELECT 'x'::timestamp(3) without time zone AS \"timestamp\")"),
        ("( SELECT ( SELECT 'x'::text), 1)", "( SELECT ( SELECT 'x'::text AS text) AS text, 1)"),
        ("( SELECT ('x'::text COLLATE \"C\"))", "( SELECT ('x'::text COLLATE \"C\") AS text)"),
        ("( SELECT ('{1}'::text[])[1])", "( SELECT ('{1}'::text[])[1] AS text)"),
    ],
)
def test_canonical_is_equal_for_an_expression_that_the_server_rewrites(once, again):
    assert canonical(once) == canonical(again)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("CHECK (((a + b) * c) > 0)", "CHECK ((a + (b * c)) > 0)"),
        ("(a + b) * c", "a + b * c"),
        ("(NOT (a > b)) = c", "NOT ((a > b) = c)"),
        ("((a OR b) AND c)", "(a OR (b AND c))"),
        ("x = 'a(b)::text'", "x = 'ab'"),
        ("x = E'a\\'b (c)'", "x = E'a\\'b c'"),
        ("x = 'a  b'", "x = 'a b'"),
        ('"a::text" > 1', '"a" > 1'),
        ("AS $function$SELECT (a + b) * 2$function$", "AS $function$SELECT a + b * 2$function$"),
        ("AS $functionx$SELECT $function$$1::int$function$$functionx$", "AS $functionx$SELECT $function$$1$function$$functionx$"),
        ("( SELECT 'x'::text AS text)", "( SELECT 'x'::text AS date)"),
        ("( SELECT 'x'::text AS \"?column?\")", "( SELECT 'x'::text)"),
        ("( SELECT a AS text)", "( SELECT a)"),
        ("f((a, b))", "f(a, b)"),
        ("(a < ANY (( SELECT b)::integer[]))", "(a < ANY ( SELECT b))"),
        ("f()", "f"),
        ("(x).y", "x.y"),
        ("x >= 1", "x > 1"),
    ],
)
def test_canonical_differs_for_expressions_of_different_meaning(one, other):
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("text", ["((((", "[", "a::numeric(10", ""])
def test_canonical_leaves_malformed_text_unchanged(text):
    assert canonical(text) == text


def test_canonical_handles_deeply_nested_brackets():
    assert canonical("(" * 5000 + "a" + ")" * 5000) == "a"
