"""A database whose owner attacks whoever restores tables of it."""

import pytest

from sandbox.servers import Postgres
from tests.support.postgres_attack import MALLORY, evil_functions
from tests.support.postgres_site import Site
from tests.support.postgres_versions import majors

ROLES = ("mallory", "alice", "steward")


@pytest.fixture(scope="module", params=majors(18))
def site(request, server_folder, tmp_path_factory):
    name = f"{request.module.__name__.rpartition('.')[2]}-{request.param}"
    with Postgres(server_folder / name, request.param, ["fsync=off"]) as server:
        yield Site(server, tmp_path_factory.mktemp(name), ("shop",), ROLES)


@pytest.fixture
def proof(site, tmp_path):
    """The file that no program should make; in the database are the functions that try to."""
    tmp_path.chmod(0o777)
    site.sql("postgres", "CREATE ROLE mallory LOGIN PASSWORD 'm'", "CREATE ROLE alice LOGIN PASSWORD 'a'")
    site.sql("postgres", "CREATE DATABASE shop OWNER mallory")
    site.sql("shop", *evil_functions(tmp_path / "proof"), "GRANT ALL ON SCHEMA mine TO alice", **MALLORY)
    yield tmp_path / "proof"
    site.clean()
    for (role,) in site.sql("postgres", "SELECT rolname FROM pg_roles WHERE rolname LIKE 'recovery%'"):
        site.sql("postgres", f"DROP ROLE {role}")
