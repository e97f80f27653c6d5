"""Containers of services that change while they are looked for."""

from contextlib import nullcontext
from types import SimpleNamespace

from recovery.plan.services import ComposeServices
from recovery.runners.docker.services import members
from tests.support.scripted_engine import SOME


def test_service_that_came_after_the_list_of_the_project_is_stopped_first():
    client = SimpleNamespace(containers=lambda **_: [])
    engine = SimpleNamespace(client=client, errors=lambda _: nullcontext(), containers=lambda _: [SOME])
    [found] = members(engine, ComposeServices(project="shop", stop=("app",)))
    assert (found.container, found.service, found.level) == (SOME, "app", 0)
