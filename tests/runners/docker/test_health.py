"""What a container printed is shown without what must stay secret."""

from recovery.runners.docker.health import without_secrets


def test_values_of_the_environment_and_passwords_in_addresses_are_left_out():
    details = {"Config": {"Env": ["PASSWORD=long-secret-tail", "PART=long-secret", "SHORT=ab", "EMPTY=", "BARE"]}}
    text = "long-secret-tail, long-secret, ab; redis://:word@cache and http://a:b@c/d@e"
    assert without_secrets(text, details) == "***, ***, ab; redis://:***@cache and http://a:***@c/d@e"


def test_container_without_an_environment():
    assert without_secrets("plain", {"Config": {"Env": None}}) == "plain"
