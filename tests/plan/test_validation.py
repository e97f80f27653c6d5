"""Plans whose parts do not fit together are refused, with the key and what to write."""

import pytest
import yaml

from recovery.plan.loader import load_plans
from recovery.plan.overlap import share_a_location
from tests.support.system import SampleSystem


@pytest.fixture
def told(tmp_path):
    """What is said of a small plan with more keys."""
    system = SampleSystem(tmp_path / "small", "small")
    written = yaml.safe_load((system.plans / "small.yaml").read_text())

    def say(**keys):
        sources = {
            "postgres": {name: {"connection": where, "databases": ["shop"]} for name, where in (("main", "live"), ("other", "crm"))},
            "mongo": {"documents": {"connection": "mongo"}},
        }
        plan = written | {"sources": written["sources"] | sources} | keys
        (system.plans / "small.yaml").write_text(
            yaml.safe_dump(plan).replace("HOME", str(system.home)).replace("FOLDER", str(system.folder))
        )
        found = load_plans(system.plans)
        return "\n".join(map(str, found.broken)), found.valid

    say.home = system.home
    return say


def target(**sources):
    return {"targets": {"staging": {"sources": sources}}}


def destinations(**places):
    return {"destinations": {name: place | {"keep_last": 3} for name, place in places.items()}}


def bucket(prefix="", connection="c", name="sets"):
    return {"s3": {"connection": connection, "bucket": name, "prefix": prefix}}


def sources(**more):
    return {"sources": {"files": {"uploads": {"path": "HOME/storage"}}} | more}


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
        (target(postgres={"main": {"connection": "spare", "owners": "mine"}}), "owners: mine needs grants: none"),
        (target(files={"uploads": {"path": "HOME"}}), "lies in, or has in it"),
        (target(config={"settings": {"folder": "FOLDER/near/x"}}), "destinations.near.folder"),
        (target(files={"other": {"path": "/srv/x"}}), "no such source"),
        (
            target(postgres={"main": {"connection": "spare"}, "other": {"connection": "spare"}}),
            "targets.staging.sources.postgres.other: shop of spare is what postgres.main is restored to, too",
        ),
        (
            target(postgres={name: {"connection": "spare", "databases": {"shop": "x"}} for name in ("main", "other")}),
            "x of spare is what postgres.main is restored to, too",
        ),
        (
            target(files={"uploads": {"path": "/srv/x"}}, config={"settings": {"folder": "/srv/x"}}),
            "/srv/x and /srv/xHOME/.env of config.settings are, or lie in, one another",
        ),
        (
            sources(files={name: {"path": f"HOME/{name}"} for name in ("a", "b")})
            | target(files={"a": {"path": "/srv/x/a"}, "b": {"path": "/srv/x"}}),
            "targets.staging.sources.files.b: /srv/x and /srv/x/a of files.a are",
        ),
        (
            sources(mongo={"a": {"connection": "m1", "collections": ["s.a"]}, "b": {"connection": "m2", "databases": ["t"]}})
            | target(mongo={"a": {"connection": "spare"}, "b": {"connection": "spare", "databases": {"t": "s"}}}),
            "sources.mongo.b: s.a of spare is what mongo.a is restored to",
        ),
        (
            sources(files={"all": {"path": "HOME"}, "uploads": {"path": "HOME/storage"}}),
            "sources.files.uploads: HOME/storage lies in HOME of files.all",
        ),
        (sources(config={"env": {"paths": ["HOME/storage/.env"]}}), "sources.config.env: HOME/storage/.env lies in HOME/storage of files"),
        (
            sources(files={"uploads": {"path": "HOME/storage", "exclude": ["a/.env"]}}, config={"env": {"paths": ["HOME/storage/a/.env"]}}),
            "exclude its topmost entry from files.uploads",
        ),
        (
            sources(config={name: {"paths": [path]} for name, path in (("a", "HOME/custom"), ("b", "HOME/custom/x"))}),
            "sources.config.b: HOME/custom/x lies in HOME/custom of config.a",
        ),
        (
            sources(postgres={name: {"connection": "live", "databases": ["a", name]} for name in "bc"}),
            "sources.postgres.c: a of live is in postgres.b, too",
        ),
        (
            sources(mongo={"b": {"connection": "m", "databases": ["a"]}, "c": {"connection": "m", "collections": ["a.one"]}}),
            "sources.mongo.c: a.one of m is in mongo.b, too",
        ),
        *(
            (
                sources(postgres={"b": {"connection": "x", "exclude": [text]}}),
                "must be written database.schema or database.schema.table",
            )
            for text in ("a", "a.b.c.d", "a..x", 'a."x')
        ),
        (
            sources(postgres={"b": {"connection": "x", "databases": ["a"], "exclude_rows": ['"a*".b']}}),
            "the database of '\"a*\".b' is not among databases",
        ),
        (sources(mongo={"b": {"connection": "x", "exclude": ["a"]}}), "must be written database.collection"),
        (sources(mongo={"b": {"connection": "x", "collections": ["a.b"], "exclude": ["a.c"]}}), "write collections or exclude, not both"),
        (sources(mongo={"b": {"connection": "x", "databases": ["b"], "exclude": ["a.c"]}}), "the database of 'a.c' is not among databases"),
        (sources(postgres={"b": {"connection": "x"}, "c": {"connection": "x", "databases": ["a"]}}), "postgres.c: a of x is in postgres.b"),
        (destinations(a={"folder": "/srv/x"}, b={"folder": "/srv/x/"}), "destinations.b: this is where a keeps its sets, too"),
        (destinations(a={"folder": "/srv/x/y"}, b={"folder": "/srv/x"}), "b: its folder or prefix and that of a lie in one another"),
        (destinations(a=bucket("prod"), b=bucket("prod")), "destinations.b: this is where a keeps its sets, too"),
        (destinations(a=bucket(), b=bucket("prod/sets")), "b: its folder or prefix and that of a lie in one another"),
        (destinations(a=bucket(name="s3://sets/prod")), "a.s3.bucket: 's3://sets/prod' is not the name of a bucket: write 3 to 63"),
        (destinations(a=bucket("/prod/")), "a.s3.prefix: '/prod/' is not a prefix: write up to 500 letters"),
        (destinations(a=bucket("x" * 501)), "is not a prefix"),
        ({"targets": {"live": {"sources": {"files": {"uploads": {"path": "/srv/x"}}}}}}, "'live' is taken"),
        ({"targets": {"scratch": {"sources": {"files": {"uploads": {"path": "/srv/x"}}}}}}, "'scratch' is taken"),
        ({"drill": {"target": "nowhere"}}, "no target 'nowhere'; write scratch"),
        ({"drill": {"sources": ["mongo.other"]}}, "no source mongo.other"),
        ({"drill": {"destinations": ["moon"]}}, "no destination 'moon'; the plan has far, near"),
        (FOLDER | {"drill": {"target": "staging", "sources": ["postgres.main"]}}, "has no postgres.main"),
        ({"hooks": {"before_backup": [{"sql": ASK | {"statement": "SELECT 1"}}]}}, "hooks.before_backup.0: the plan has no source"),
        ({"hooks": {"before_backup": [{"argv": ["true"], "mongo": PING}]}}, "exactly one of argv, sql, mongo"),
        ({"hooks": {"before_backup": [{"argv": ["./stop", "x"]}]}}, "'./stop' is a relative path; write an absolute one"),
        ({"services": {"stop": [["bin/stop"]]}}, "'bin/stop' is a relative path; write an absolute one"),
        ({"checks": [{"sql": {"source": "postgres.main", "database": "shop", "query": "SELECT 1"}}]}, "exactly one of equals, at_least"),
        ({"checks": [{"sql": ASK | {"query": "SELECT 1", "equals": 1}}]}, "checks.0: the plan has no source"),
        ({"checks": [{"sql": ASK | {"query": "SELECT 1", "equals": 1, "as": "pg_monitor"}}]}, "'pg_monitor' is a role of the server"),
    ],
)  # fmt: skip
def test_plan_validation_refuses_parts_that_do_not_fit_together(told, keys, words):
    broken, valid = told(**keys)
    assert words in broken.replace(str(told.home), "HOME")
    assert not valid


def test_plan_validation_accepts_a_target_on_the_live_server_under_another_name(told):
    broken, valid = told(
        **target(postgres={"main": {"connection": "live", "databases": {"shop": "shop_copy"}}}, files={"uploads": {"path": "/srv/copy"}}),
        drill={"target": "staging", "schedule": "0 4 * * 0", "on_new_set": True},
    )
    assert not broken
    assert valid[0].targets["staging"].gates == ("plan", "cutover", "accept")


@pytest.mark.parametrize(
    ("other", "same"),
    [({"connection": "spare", "databases": {"shop": "y"}}, False), ({"connection": "spare"}, False), ({"connection": "moon"}, False),
     ({"connection": "spare", "databases": {"shop": "x"}}, True)],
)  # fmt: skip
def test_share_a_location_compares_the_databases_of_two_targets(told, other, same):
    there = {"one": {"connection": "spare", "databases": {"shop": "x"}}, "two": other}
    _, (plan,) = told(targets={name: {"sources": {"postgres": {"main": where}}} for name, where in there.items()})
    assert share_a_location(plan, "one", plan, "two") is same
    assert share_a_location(plan, "one", plan, "one")
    assert not share_a_location(plan, "one", plan, "live")
    assert not share_a_location(plan, "scratch", plan, "live")


@pytest.mark.parametrize(
    ("other", "same"),
    [({"files": {"all": {"path": "HOME/storage"}}}, True), ({"files": {"some": {"path": "HOME/storage/below"}}}, True),
     ({"config": {"all": {"paths": ["HOME"]}}}, True), ({"config": {"code": {"paths": ["HOME"], "exclude": ["storage"]}}}, False),
     ({"files": {"all": {"path": "HOME/store"}}}, False), ({"postgres": {"all": {"connection": "live"}}}, True),
     ({"postgres": {"one": {"connection": "live", "databases": ["x"]}}}, False), ({"mongo": {"all": {"connection": "live"}}}, False)],
)  # fmt: skip
def test_share_a_location_compares_the_live_sources_of_two_plans(told, other, same):
    _, (plan,) = told(**sources(postgres={"main": {"connection": "live", "databases": ["shop"]}}))
    _, (beside,) = told(plan="beside", sources=other)
    assert share_a_location(plan, "live", beside, "live") is share_a_location(beside, "live", plan, "live") is same


def test_share_a_location_finds_a_target_that_is_live_in_another_plan(told):
    _, (plan,) = told(targets={"spare": {"sources": {"files": {"uploads": {"path": "/srv/copy/below"}}}}})
    _, (beside,) = told(plan="beside", sources={"files": {"all": {"path": "/srv/copy"}}})
    assert share_a_location(plan, "spare", beside, "live")
    assert not share_a_location(plan, "live", beside, "live")


@pytest.mark.parametrize(
    "apart",
    [
        sources(files={"uploads": {"path": "HOME/storage", "exclude": ["a"]}}, config={"env": {"paths": ["HOME/storage/a/.env"]}}),
        sources(files={"uploads": {"path": "HOME/a/b"}}, config={"code": {"paths": ["HOME/a"], "exclude": ["b"]}}),
        sources(files={"all": {"path": "HOME/a", "exclude": ["years"]}, "years": {"path": "HOME/a/years/old"}}),
        sources(config={"all": {"paths": ["HOME/a"], "exclude": ["lib/own"]}, "own": {"paths": ["HOME/a/lib/own/x"]}}),
        sources(mongo={name: {"connection": "m", "collections": [f"a.{name}"]} for name in ("b", "c")}),
        sources(config={"env": {"paths": ["HOME/.env"]}})
        | target(files={"uploads": {"path": "/srv/x/storage"}}, config={"env": {"folder": "/srv/x"}}),
        target(postgres={"main": {"connection": "spare"}, "other": {"connection": "spare", "databases": {"shop": "x"}}}),
        destinations(a={"folder": "/srv/x"}, b={"folder": "/srv/xy"}),
        destinations(a=bucket("prod"), b=bucket("prod2"), c=bucket("prod", "d"), d=bucket("prod", name="more")),
    ],
)
def test_plan_validation_accepts_parts_without_a_common_location(told, apart):
    broken, valid = told(**apart)
    assert not broken
    assert valid


COMMANDS = {"stop": [["a"]], "start": [["b"]]}
COMPOSE = {"compose": {"project": "shop", "stop": ["app"]}}
CONTAINERS = {"docker": {"containers": ["app"]}}


@pytest.mark.parametrize("services", [COMMANDS, COMPOSE, CONTAINERS, COMMANDS | COMPOSE | CONTAINERS])
def test_cold_backups_stop_services_by_commands_or_as_containers(told, services):
    assert told(services=services | {"down_at_most": "1h"})[0] == ""


@pytest.mark.parametrize(
    "services", [{}, {"stop": [["a"]]}, {"start": [["b"]]}, COMPOSE | {"stop": [["a"]]}, CONTAINERS | {"start": [["b"]]}]
)
def test_cold_backups_start_all_that_they_stop(told, services):
    assert (
        "services.down_at_most: cold backups need services.compose or services.docker"
        in told(services=services | {"down_at_most": "1h"})[0]
    )


@pytest.mark.parametrize(
    "services",
    [
        {"compose": {"project": "shop"}},
        {"compose": {"project": "shop", "stop": []}},
        {"compose": {"project": "Shop", "stop": ["app"]}},
        {"compose": {"stop": ["app"]}},
        {"docker": {"containers": []}},
        {"docker": {"containers": ["a/b"]}},
    ],
)
def test_services_in_containers_are_named(told, services):
    assert "services." in told(services=services)[0]


@pytest.mark.parametrize(
    ("server", "services", "stopped"),
    [
        ({"container": "db"}, {"docker": {"containers": ["app", "db"]}}, "the container db"),
        ({"project": "shop", "service": "db"}, {"compose": {"project": "shop", "stop": ["app", "db"]}}, "the service db of"),
        ({"container": "db"}, {"docker": {"containers": ["app"]}}, ""),
        ({"container": "db", "connection": "engine"}, {"docker": {"containers": ["db"]}}, ""),
        ({"project": "shop", "service": "db"}, {"compose": {"project": "other", "stop": ["db"]}}, ""),
    ],
)
def test_server_that_services_would_stop_is_refused(told, server, services, stopped):
    reach = {"docker": server}
    live = told(services=services, **sources(postgres={"main": {"connection": "live", "reach": reach}}))[0]
    there = {"sources": {"postgres": {"main": {"connection": "crm", "reach": reach}}}, "services": services}
    elsewhere = told(targets={"staging": there}, **sources(postgres={"main": {"connection": "live"}}))[0]
    for fault, key in ((live, "services"), (elsewhere, "targets.staging.services")):
        assert (f"{key}: {stopped}" in fault) if stopped else fault == ""
    assert "is the server of postgres.main, which has to run" in live or not stopped


# Client tools -----------------------------------------------------------------------------------------------------------

IN_A_CONTAINER = {"connection": "live", "reach": {"docker": {"container": "shop-db"}}}


def test_tools_of_the_servers_image_need_a_server_in_a_container(told):
    tools = {"tools": {"postgres": "container"}}
    assert "tools.postgres: no source and no target of this kind has reach" in told(**tools)[0]
    assert told(**tools, sources={"postgres": {"main": IN_A_CONTAINER}})[0] == ""
    assert told(**tools, **target(postgres={"main": IN_A_CONTAINER}))[0] == ""
    _, (plan,) = told(**tools, sources={"postgres": {"main": IN_A_CONTAINER}})
    assert (plan.tools.in_containers("postgres"), plan.tools.folders("postgres")) == (True, ())
    assert not plan.tools.in_containers("mongo")


@pytest.mark.parametrize("tools", [{"mongo": "container"}, {"postgres": "image"}])
def test_tools_of_an_image_are_to_be_had_of_postgresql_only(told, tools):
    assert "tools." in told(tools=tools)[0]
