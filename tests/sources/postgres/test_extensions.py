"""Databases with extensions of others come back equal, and can be backed up and restored again; what nobody has tried is refused."""

import pytest

from sandbox.servers import Postgres
from tests.support.local_restore import read_dump
from tests.support.postgres_site import Site, texts
from tests.support.postgres_versions import majors

OWNER = {"user": "ext_owner", "password": "o"}
VECTORS = (
    "CREATE TABLE items (id serial PRIMARY KEY, v vector(3) CHECK (vector_dims(v) = 3), h halfvec(3), b bit(3))",
    "INSERT INTO items (v, h, b) SELECT ARRAY[n, n * 0.5, -n]::vector, ARRAY[n, 1, 2]::halfvec, '101' FROM generate_series(1, 200) n",
    "CREATE INDEX ON items USING hnsw (v vector_cosine_ops)",
    "CREATE INDEX ON items USING ivfflat (v vector_l2_ops) WITH (lists = 5)",
    "CREATE INDEX ON items USING hnsw ((binary_quantize(v)::bit(3)) bit_hamming_ops)",
    "CREATE VIEW near AS SELECT id FROM items ORDER BY v <-> '[1,2,3]' LIMIT 5",
)
PLACES = (
    "CREATE TABLE place (id serial PRIMARY KEY, at geometry(Point, 4326) CHECK (ST_IsValid(at)), area geography,"
    " x float GENERATED ALWAYS AS (ST_X(at)) STORED)",
    "INSERT INTO place (at, area) SELECT p, ST_Buffer(p::geography, 100)"
    " FROM generate_series(1, 50) n, ST_SetSRID(ST_MakePoint(n, n / 2.0), 4326) p",
    "CREATE INDEX ON place USING gist (at)",
    "CREATE INDEX ON place USING spgist (at)",
    "CREATE INDEX ON place USING gist (ST_Transform(at, 3857))",
    "CREATE INDEX ON place USING gist (ST_Buffer(area, 5))",
    "CREATE VIEW near AS SELECT id FROM place WHERE ST_DWithin(at::geography, ST_MakePoint(1, 1)::geography, 100000)",
    "CREATE TABLE own_system (g geometry(Point, 990001))",
    "INSERT INTO own_system VALUES (ST_SetSRID(ST_MakePoint(1, 2), 990001))",
)
SYSTEM = """INSERT INTO spatial_ref_sys (srid, auth_name, auth_srid, proj4text)
    VALUES (990001, 'mine', 1, '+proj=longlat +datum=WGS84 +no_defs')"""


@pytest.fixture(scope="module", params=majors(16, 18, without=(13, 14, 15, 17)))
def site(request, server_folder, tmp_path_factory):
    options = [f"extension_control_path=$system:{stand_ins(server_folder / 'stand-ins')}"] if request.param == 18 else []
    with Postgres(server_folder / f"postgres-extensions-{request.param}", request.param, options) as server:
        yield Site(server, tmp_path_factory.mktemp("extensions"), ("places",), ("ext_owner",))


@pytest.fixture
def places(site):
    site.sql("postgres", "CREATE ROLE ext_owner LOGIN PASSWORD 'o'", "CREATE DATABASE places OWNER ext_owner")
    site.sql("places", "GRANT CREATE ON SCHEMA public TO ext_owner")
    yield
    site.clean()


def stand_ins(folder):
    """Extensions that do what others do: look into the search path as PostGIS does, and have a name that is known."""
    share = folder / "share"
    (share / "extension").mkdir(parents=True, exist_ok=True)
    share.parent.chmod(0o755)
    for name, script in (
        ("timescaledb", "SELECT 1;"),
        ("base_type", "CREATE TYPE shape AS (n int);"),
        (
            "path_maker",
            "CREATE FUNCTION add() RETURNS void LANGUAGE plpgsql AS $$ DECLARE path text; BEGIN"
            " SELECT reset_val INTO path FROM pg_catalog.pg_settings WHERE name = 'search_path';"
            " IF path NOT LIKE '%paths%' THEN EXECUTE format('ALTER DATABASE %I SET search_path = %s, paths',"
            " pg_catalog.current_database(), path); END IF; EXECUTE 'SET search_path = ' || path; END $$;"
            " SELECT add(); CREATE TABLE paths.known (s shape); GRANT USAGE ON SCHEMA paths TO PUBLIC;",
        ),
    ):
        schema = "schema = paths\nrequires = 'base_type'\n" if name == "path_maker" else ""
        (share / f"extension/{name}.control").write_text(f"default_version = '1.0'\nrelocatable = false\n{schema}")
        (share / f"extension/{name}--1.0.sql").write_text(script)
    return share


def restored(site, set_folder, *only):
    source, restore = site.source("places"), site.restore(set_folder, only=only)
    assert texts(source, restore, "refusal") == ""
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)


def test_database_with_pgvector_comes_back_whole_and_by_table(site, places):
    site.sql("places", "CREATE EXTENSION vector")
    site.sql("places", *VECTORS, **OWNER)
    set_folder = site.back_up(site.source("places"))
    near = site.sql("places", "SELECT id FROM near")
    site.sql("places", "DELETE FROM items")
    restored(site, set_folder, "places.public.items")
    assert site.sql("places", "SELECT id FROM near") == near
    restored(site, set_folder)
    assert site.sql("places", "SELECT id FROM near") == near


def test_extension_that_adds_to_the_search_path_comes_back_with_the_sets_settings(site, places):
    if site.server.major < 18:
        pytest.skip("only PostgreSQL 18 finds extensions of a test")
    site.sql("places", "CREATE EXTENSION base_type", "CREATE EXTENSION path_maker", "ALTER DATABASE places RESET search_path")
    restored(site, site.back_up(site.source("places")))
    assert site.sql("places", "SELECT setconfig FROM pg_db_role_setting") == []


def test_timescaledb_is_named_in_the_set_and_refused_by_restores(site, places):
    if site.server.major < 18:
        pytest.skip("only PostgreSQL 18 finds extensions of a test")
    site.sql("places", "CREATE EXTENSION timescaledb", "CREATE TABLE t (n int)")
    set_folder = site.back_up(site.source("places"))
    assert any("nobody has tried to restore the extension timescaledb" in words for words in read_dump(set_folder).warnings)
    for only in ([], ["places.public.t"]):
        assert "has the extension timescaledb" in texts(site.source("places"), site.restore(set_folder, only=only), "refusal")


@pytest.fixture(params=majors(without=(13, 14)))
def with_postgis(request, server_folder, tmp_path_factory):
    with Postgres(server_folder / f"postgres-postgis-{request.param}", request.param) as server:
        site = Site(server, tmp_path_factory.mktemp("postgis"), ("places",), ("ext_owner",))
        if not site.sql("postgres", "SELECT name FROM pg_available_extensions WHERE name = 'postgis_topology'"):
            pytest.skip(f"PostgreSQL {request.param} has no PostGIS here")
        yield site


@pytest.mark.long
def test_database_with_postgis_comes_back_whole_and_by_table_and_is_backed_up_again(with_postgis):
    site = with_postgis
    site.sql("postgres", "CREATE ROLE ext_owner LOGIN PASSWORD 'o'", "CREATE DATABASE places OWNER ext_owner")
    site.sql(
        "places", "CREATE EXTENSION postgis", "CREATE EXTENSION postgis_topology", "GRANT CREATE ON SCHEMA public TO ext_owner", SYSTEM
    )
    site.sql("places", *PLACES, **OWNER)
    set_folder = site.back_up(site.source("places"))
    for only in ([], ["places.public.place"]):
        restored(site, set_folder, *only)
        assert site.sql(
            "places", "SELECT (SELECT count(*) FROM place), (SELECT count(*) FROM near), (SELECT count(*) FROM own_system)"
        ) == [(50, 1, 1)]
        set_folder = site.back_up(site.source("places"))
    restored(site, set_folder)
