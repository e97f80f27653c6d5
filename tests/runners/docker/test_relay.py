"""What failed on the way to a server is not taken for what the image lacks."""

import socket
from dataclasses import replace

import pytest

from recovery.common.errors import ContainerError
from recovery.runners.docker import relay
from recovery.runners.docker.relay import direct_address, find_relay
from recovery.runners.docker.stream import NotStarted
from tests.support.scripted_engine import SOME

PASSES = ContainerError("The stream from the Engine was cut.", "Look.", retryable=True)
FORBIDDEN = ContainerError("403 Forbidden", "Ask.")
LACKS = NotStarted("no such file", "Read.")


@pytest.fixture
def answering(monkeypatch):
    """What a command in the container does from now on, by its program."""

    def answering(**programs):
        def run(_engine, _id, argv):
            if isinstance(outcome := programs[argv[0]], Exception):
                raise outcome
            return outcome

        monkeypatch.setattr(relay, "run", run)

    return answering


@pytest.mark.parametrize("error", [PASSES, FORBIDDEN])
def test_failure_of_the_engine_is_no_lack_of_programs(answering, error):
    answering(perl=error, bash=error)
    with pytest.raises(ContainerError, match=error.what) as told:
        find_relay(None, SOME, 5432)
    assert told.value.retryable == error.retryable


@pytest.mark.parametrize("lacking", [LACKS, (127, b"not found"), (126, b"")])
def test_image_without_programs_is_said_to_be_one(answering, caplog, lacking):
    answering(perl=lacking, bash=lacking)
    with pytest.raises(ContainerError, match="neither perl nor bash"):
        find_relay(None, SOME, 5432)
    answering(perl=lacking, bash=(0, b""))
    assert find_relay(None, SOME, 5432).name == "bash"


@pytest.fixture
def listening():
    """A container at loopback, and its port."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        details = {"NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}}}
        yield replace(SOME, details=details), made.getsockname()[1]


@pytest.mark.parametrize("cat", [LACKS, FORBIDDEN, (127, b""), (0, b"\n" * 100_000 + b"x " * 100_000)])
def test_address_is_not_taken_if_the_look_from_inside_can_not_be_had(answering, listening, cat):
    answering(cat=cat)
    assert direct_address(None, *listening) is None


def test_look_from_inside_that_may_succeed_next_time_is_an_error(answering, listening):
    """Else the way would be another one by chance, and with it what a Connection may ask for."""
    answering(cat=PASSES)
    with pytest.raises(ContainerError, match="was cut"):
        direct_address(None, *listening)
