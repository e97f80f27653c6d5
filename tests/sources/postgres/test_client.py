"""A pooler is recognised before anything begins, whatever it does to sessions."""

import pytest

from recovery.common.errors import ConnectionUnusable
from tests.support.pooler import PgBouncer
from tests.support.postgres_site import Site


@pytest.fixture(scope="module")
def site(postgres_server, tmp_path_factory):
    site = Site(postgres_server, tmp_path_factory.mktemp("pooled"), ("pooled",))
    site.create("pooled", "CREATE TABLE t AS SELECT 1 AS n")
    yield site
    site.clean()


@pytest.fixture(params=["session", "transaction", "statement"])
def dropping(request, site, server_folder):
    """A pooler that drops the settings of sessions; PgBouncer has to be told so, other poolers do it anyway."""
    with PgBouncer(server_folder / f"pooler-{request.param}", site.server, request.param, "options,extra_float_digits") as pooler:
        yield pooler


@pytest.fixture
def refusing(site, server_folder):
    with PgBouncer(server_folder / "pooler-plain", site.server, "transaction", "") as pooler:
        yield pooler


def through(site, pooler, **options):
    return site.source("pooled", port=pooler.port, **options)


WORDS = "Not PostgreSQL itself but a pooler, such as PgBouncer, answers at 127.0.0.1"


def test_backup_and_restore_through_a_pooler_that_drops_settings_are_refused(site, dropping):
    with pytest.raises(ConnectionUnusable, match=WORDS) as caught:
        site.back_up(through(site, dropping))
    assert "its sessions have not the settings that ours were begun with" in caught.value.what
    assert "direct address" in caught.value.next_step
    restore = site.restore(site.back_up(site.source("pooled")))
    with pytest.raises(ConnectionUnusable, match=WORDS):
        through(site, dropping).preflight(restore)


def test_pooler_that_refuses_settings_is_named_too(site, refusing):
    with pytest.raises(ConnectionUnusable, match=rf"{WORDS}:\d+ .*unsupported startup parameter"):
        through(site, refusing).try_out()


def test_session_in_a_database_without_an_encoding_is_no_poolers(site):
    site.sql("postgres", "CREATE DATABASE pooled_raw ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    site.back_up(site.source("pooled_raw"))


def test_server_itself_is_used(site):
    assert site.source("pooled").try_out().startswith(f"PostgreSQL {site.server.major}")
