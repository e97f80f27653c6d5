"""Whatever a plan file holds, it is a plan or one import error of that file, in words, and at once."""

import re

import pytest

from recovery.plan.loader import BrokenPlan, read_plan
from recovery.plan.model import Plan
from tests.support.plan_mutations import ENVIRONMENT, NASTY, PLANS, alias_bomb, mutated

PLACES = ("timezone", "owner", "schedule", "retries", "pack", "timeout", "sources", "targets")


def read(path, content: bytes) -> Plan | BrokenPlan:
    """What a file is, once it is sure that it can be shown."""
    path.write_bytes(content)
    result = read_plan(path, ENVIRONMENT)
    if isinstance(result, BrokenPlan):
        said = str(result)
        assert 1 <= len(result.errors) <= 101
        assert "defect" not in said
        assert all(line.startswith("plan.yaml: ") and line.isprintable() and len(line) > 20 for line in said.split("\n")), said
        assert said.encode()
        assert len(said) < 100_000
    else:
        assert isinstance(result, Plan)
    return result


@pytest.mark.parametrize("plan", PLANS, ids=["shipped", "everything"])
def test_unchanged_plan_is_valid(tmp_path, plan):
    assert isinstance(read(tmp_path / "plan.yaml", plan.encode()), Plan)


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("name", NASTY)
def test_nasty_value_is_a_plan_or_a_broken_plan(tmp_path, name, key):
    without = re.sub(rf"^{key}:.*\n( .*\n)*", "", PLANS[1], flags=re.MULTILINE)
    assert without != PLANS[1]
    read(tmp_path / "plan.yaml", f"{without}{key}: {NASTY[name]}\n".encode("utf-8", "surrogatepass"))


def test_bomb_of_aliases_is_a_broken_plan(tmp_path):
    assert isinstance(read(tmp_path / "plan.yaml", alias_bomb().encode()), BrokenPlan)
    small = alias_bomb(8, 3).encode()
    assert "aliases (*name) are not allowed" in str(read(tmp_path / "plan.yaml", small))


@pytest.mark.parametrize(
    "seeds",
    [pytest.param(range(400), id="some hundred"), pytest.param(range(400, 10_400), id="ten thousand", marks=pytest.mark.long)],
)
def test_changed_plan_file_is_a_plan_or_a_broken_plan(tmp_path, seeds):
    found = set()
    for seed in seeds:
        print("seed", seed)
        found.add(type(read(tmp_path / "plan.yaml", mutated(seed))))
    assert found == {Plan, BrokenPlan}
