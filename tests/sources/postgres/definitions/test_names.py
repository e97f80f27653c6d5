import pytest

from recovery.sources.postgres.definitions.names import quoted_name, quoted_names, raw


@pytest.mark.parametrize("name", ["plain", "_a1$", "1a", "x y", "Upper", "a.b", 'a"b', '"a"', "a-b", "ä", "a,b", "", "$a"])
def test_quoted_name_of_any_name_is_what_the_server_writes(postgres_server, name):
    with postgres_server.connect() as connection:
        assert connection.execute("SELECT quote_ident(%s)", [name]).fetchone() == (quoted_name(name),)
    assert raw(quoted_name(name)) == name


def test_quoted_names_with_a_comma_in_one_are_told_apart():
    assert quoted_names(["x, y", "x", "y"]) == '"x, y", x, y'
