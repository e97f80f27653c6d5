"""What preflight finds in a live database that single tables are restored into."""

import pytest

from sandbox.servers import Postgres
from tests.support.postgres_attack import made, restored
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

SILENT = """IF (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) THEN ALTER ROLE mallory SUPERUSER; END IF;"""


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"preflight-{request.param}", request.param, ["fsync=off"]) as server:
        yield Site(server, tmp_path_factory.mktemp(f"preflight-{request.param}"), ("shop",), ("mallory", "alice"))


@pytest.mark.parametrize("mode", ["", " ALWAYS", " REPLICA"])
def test_function_of_an_event_trigger_never_runs_with_the_rights_of_the_connections_user(site, proof, mode):
    """A superuser made the trigger; its function is the database's owner's."""
    backup, is_safe = made(site, proof, "CREATE TABLE mine.t AS SELECT 1 AS a")
    site.sql("shop", f"CREATE FUNCTION mine.fire() RETURNS event_trigger LANGUAGE plpgsql AS $$ DECLARE name text; BEGIN {SILENT} END $$")
    site.sql("shop", "ALTER FUNCTION mine.fire() OWNER TO mallory")
    site.sql("shop", "CREATE EVENT TRIGGER fire ON ddl_command_end EXECUTE FUNCTION mine.fire()", f"ALTER EVENT TRIGGER fire ENABLE{mode}")
    restore, source = site.restore(backup, only=["shop.mine.t"]), site.source("shop")
    if mode and site.server.major < 17:
        refused = (
            "The event trigger fire of shop would run a function of mallory with the rights of postgres. ALTER EVENT TRIGGER fire DISABLE"
        )
        assert refused in texts(source, restore, "refusal")
        return
    warned = "The event trigger fire of shop runs whenever the restore makes or moves something there."
    assert (warned in texts(source, restore, "warning")) == (mode != " REPLICA")
    restored(restore, source, is_safe)
