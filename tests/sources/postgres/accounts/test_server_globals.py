import pytest
from psycopg.sql import SQL

from recovery.common.errors import ArtifactError
from recovery.sources.postgres.accounts.server_globals import read_roles, settings, write_roles


def test_roles_that_were_written_are_read_with_their_passwords(tmp_path):
    path = tmp_path / "roles.jsonl"
    write_roles(path, [("role", "owner", {"login": True}), ("role", "line\nbreak", {"login": False})], {"owner": "SCRAM-SHA-256$x"})
    assert read_roles(path) == {
        "owner": {"name": "owner", "password": "SCRAM-SHA-256$x", "login": True},
        "line\nbreak": {"name": "line\nbreak", "password": None, "login": False},
    }


@pytest.mark.parametrize(
    "line", [b"[" * 200_000, b"9" * 100_000, b"[]", b"1", b"{}", b"{", b"\xff", b'{"name": []}', b'{"name": "a", "name": "b"}']
)
def test_read_roles_refuses_a_damaged_list_in_words(tmp_path, line):
    (tmp_path / "roles.jsonl").write_bytes(b'{"name": "owner"}\n' + line + b"\n")
    with pytest.raises(ArtifactError, match=r"The set's roles\.jsonl is no list of roles"):
        read_roles(tmp_path / "roles.jsonl")


@pytest.mark.parametrize(("value", "parts"), [('"$user", public', 2), ('"a, ""b"', 1), ("", 1), ('""', 1)])
def test_list_that_set_wrote_is_set_name_by_name(value, parts):
    (statement,) = settings(SQL("DATABASE a"), [f"search_path={value}"])
    assert statement.as_string().count("'") == 2 * parts


@pytest.mark.parametrize("value", ['"abc', "Abc", "a,b", "a b"])
def test_list_that_set_would_write_in_another_way_is_taken_over_as_it_is(value):
    assert [statement.as_string().split(" ")[0] for statement in settings(SQL("ROLE a"), [f"search_path={value}"])] == [
        "SELECT",
        "ALTER",
        "SET",
    ]
