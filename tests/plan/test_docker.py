import pytest
from pydantic import ValidationError

from recovery.plan.docker import DockerContainer


@pytest.mark.parametrize(
    ("words", "title"),
    [
        ({"container": "shop-db.1"}, "the container shop-db.1"),
        ({"project": "shop", "service": "db", "connection": "engine"}, "the service db of the Compose project shop"),
    ],
)
def test_container_is_named_by_itself_or_by_its_service(words, title):
    assert DockerContainer(**words).title == title


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"connection": "engine"},
        {"project": "shop"},
        {"service": "db"},
        {"container": "shop", "service": "db"},
        {"container": "shop", "project": "shop", "service": "db"},
    ],
)
def test_container_named_not_at_all_or_twice_is_refused(words):
    with pytest.raises(ValidationError, match="write either container, or project and service"):
        DockerContainer(**words)


@pytest.mark.parametrize("name", ["", "a", "/shop", "shop/json?x", "../info", "shop db", "-shop", "söhne"])
def test_name_that_no_container_has_is_refused(name):
    with pytest.raises(ValidationError, match="container"):
        DockerContainer(container=name)
