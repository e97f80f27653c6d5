"""The order of services, by Compose's labels."""

import pytest

from recovery.common.errors import ContainerError
from recovery.runners.docker.order import DEPENDS_ON, depends_on, stopping_levels


@pytest.mark.parametrize(
    ("label", "needed"),
    [
        ("", set()),
        ("db:service_healthy:false", {"db"}),
        ("db:service_started:true,worker:service_completed_successfully:false", {"db", "worker"}),
        ("db:service_started", {"db"}),
        ("db,,worker", {"db", "worker"}),
    ],
)
def test_label_names_what_a_service_needs(label, needed):
    assert depends_on({DEPENDS_ON: label}) == needed


def test_container_without_the_label_needs_nothing():
    assert depends_on({}) == set()


def test_dependents_stop_before_what_they_need_also_by_way_of_others():
    levels = stopping_levels({"app": {"queue", "db"}, "queue": {"db"}, "db": set(), "web": set()})
    assert levels == {"app": 0, "web": 0, "queue": 1, "db": 2}


def test_service_without_containers_has_a_level_too():
    assert stopping_levels({"app": {"gone"}}) == {"app": 0, "gone": 1}


def test_services_that_depend_on_each_other_are_named():
    with pytest.raises(ContainerError, match=r"depend on each other: .*(a, b|b, a)"):
        stopping_levels({"a": {"b"}, "b": {"a"}, "c": set()})
