"""Plans whose parts do not fit together are refused, with the key and what to write."""

import pytest
import yaml

from recovery.plans import load_plans
from tests.small import Small


@pytest.fixture
def told(tmp_path):
    """What is said of a small plan with more keys."""
    small = Small(tmp_path / "small", "small")
    written = yaml.safe_load((small.plans / "small.yaml").read_text())

    def say(**keys):
        sources = {
            "postgres": {name: {"connection": where, "databases": ["shop"]} for name, where in (("main", "live"), ("other", "crm"))},
            "mongo": {"documents": {"connection": "mongo"}},
        }
        plan = written | {"sources": written["sources"] | sources} | keys
        (small.plans / "small.yaml").write_text(yaml.safe_dump(plan).replace("HOME", str(small.home)).replace("FOLDER", str(small.folder)))
        found = load_plans(small.plans)
        return "\n".join(map(str, found.broken)), found.good

    return say


def target(**sources):
    return {"targets": {"staging": {"sources": sources}}}


FOLDER = target(files={"uploads": {"path": "/srv/x"}})
ASK = {"source": "postgres.y", "database": "shop"}
PING = {"source": "mongo.documents", "database": "shop", "command": {"ping": 1}}


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (target(postgres={"main": {"connection": "live"}}), "this is the live server of postgres.main; give shop another name"),
        (target(postgres={"main": {"connection": "live", "databases": {"shop": "shop"}}}), "give shop another name"),
        (target(mongo={"documents": {"connection": "mongo", "databases": {"a": "b"}}}), "name the databases of both in the plan"),
        (target(postgres={"main": {"connection": "crm"}}), "this is the live server of postgres.other; give shop another name"),
        (target(files={"uploads": {"path": "HOME/storage/below"}}), "lies in"),
        (target(files={"uploads": {"path": "HOME"}}), "lies in, or has in it"),
        (target(config={"settings": {"folder": "FOLDER/near/x"}}), "destinations.near.folder"),
        (target(files={"other": {"path": "/srv/x"}}), "no such source"),
        ({"targets": {"live": {"sources": {"files": {"uploads": {"path": "/srv/x"}}}}}}, "'live' is taken"),
        ({"targets": {"scratch": {"sources": {"files": {"uploads": {"path": "/srv/x"}}}}}}, "'scratch' is taken"),
        ({"drill": {"target": "nowhere"}}, "no target 'nowhere'; write scratch"),
        ({"drill": {"sources": ["mongo.other"]}}, "no source mongo.other"),
        ({"drill": {"destinations": ["moon"]}}, "no destination 'moon'; the plan has far, near"),
        (FOLDER | {"drill": {"target": "staging", "sources": ["postgres.main"]}}, "has no postgres.main"),
        ({"hooks": {"before_backup": [{"sql": ASK | {"statement": "SELECT 1"}}]}}, "hooks.before_backup.0: the plan has no source"),
        ({"hooks": {"before_backup": [{"argv": ["true"], "mongo": PING}]}}, "exactly one of argv, sql, mongo"),
        ({"checks": [{"sql": {"source": "postgres.main", "database": "shop", "query": "SELECT 1"}}]}, "exactly one of equals, at_least"),
        ({"checks": [{"sql": ASK | {"query": "SELECT 1", "equals": 1}}]}, "checks.0: the plan has no source"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(told, keys, words):
    broken, good = told(**keys)
    assert words in broken
    assert not good


def test_a_target_on_the_live_server_under_another_name_fits(told):
    broken, good = told(
        **target(postgres={"main": {"connection": "live", "databases": {"shop": "shop_copy"}}}, files={"uploads": {"path": "/srv/copy"}}),
        drill={"target": "staging", "schedule": "0 4 * * 0", "on_new_set": True},
    )
    assert not broken
    assert good[0].targets["staging"].gates == ("plan", "switch", "accept")
