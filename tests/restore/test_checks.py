"""Checks asked of real servers: what counts as right, what is said of the rest, and that nothing is waited for longer than allowed."""

import base64
import logging
import os
import signal
import socket
import threading
import time
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from bson import encode
from bson.raw_bson import RawBSONDocument
from pydantic import ValidationError

from recovery.common.connections import Endpoint
from recovery.plan.checks import Check
from recovery.plan.field_types import LIVE
from recovery.plan.kinds.mongo import MongoTarget
from recovery.plan.kinds.postgres import PostgresTarget
from recovery.restore import checks
from recovery.restore.checks import at_path, run_check, same
from recovery.targets.resolve import resolve
from recovery.targets.target import RestoreTarget
from sandbox.servers import wait_for
from tests.support.system import SampleSystem

SQL = {"source": "postgres.main", "database": "checked"}
MONGO = {"source": "mongo.documents", "database": "checked"}


@pytest.fixture(scope="module")
def system(tmp_path_factory, postgres_server, mongo_server):
    made = SampleSystem(tmp_path_factory.mktemp("checks") / "small", "checked", postgres=postgres_server, mongo=mongo_server)
    yield made
    made.drop()


@pytest.fixture(scope="module")
def live(system):
    return resolve(system.context(), LIVE)


def check(**what):
    return Check(**{"retries": 0, "pause": timedelta(milliseconds=1), "timeout": timedelta(seconds=20)} | what)


def sql(query, **expected):
    return check(sql=SQL | {"query": query} | expected)


def mongo(collection="states", **rest):
    return check(mongo=MONGO | {"collection": collection} | rest)


# Addresses ----------------------------------------------------------------------------------------------------------


class Web(BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        self.server.asked.append((path, query, self.headers.get("Authorization")))
        getattr(self, f"get_{path.strip('/')}")()

    def send(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def get_health(self):
        self.send(200, b'{"database": {"state": "ok", "lag": 0.5}, "nodes": [{"up": true}, {"up": false}], "version": "2.4", "a.b": 1}')

    def get_words(self):
        self.send(200, b"all is well")

    def get_away(self):
        self.send(302, Location="https://login.example.org/?token=hush-hush")

    def get_astray(self):
        self.send(302, Location="http://xn--/")

    def get_nested(self):
        self.send(200, b"[" * 100_000 + b"]" * 100_000)

    def get_down(self):
        self.send(503, b'{"database": {"state": "ok"}}')

    def get_soon(self):
        asked = [path for path, _, _ in self.server.asked].count("/soon")
        self.send(200 if asked == 3 else 503)

    def get_drips(self):
        """Each byte comes before any timeout of a read."""
        self.send_response(200)
        self.end_headers()
        while not self.server.over.wait(0.1):
            self.wfile.write(b" ")
            self.wfile.flush()

    def get_endless(self):
        self.send_response(200)
        self.end_headers()
        while not self.server.over.is_set():
            self.wfile.write(b" " * (1 << 20))

    def log_message(self, *args):
        """Keep quiet."""

    def handle(self):
        try:
            super().handle()
        except ConnectionError:
            """The client has closed the connection."""


@pytest.fixture
def web():
    with ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        server.daemon_threads = True
        server.asked = []
        server.over = threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.over.set()
        server.shutdown()


def at(web, path, user=""):
    return f"http://{user}127.0.0.1:{web.server_port}/{path}"


@pytest.mark.parametrize(
    ("path", "settings", "ok", "words"),
    [
        ("health", {}, True, "status 200"),
        (
            "health",
            {"fields": {"database.state": "ok", "nodes.0.up": True}},
            True,
            'status 200, database.state is "ok", nodes.0.up is true',
        ),
        ("health", {"fields": {"database.lag": 0.5, "a.b": 1}}, False, "expected a.b to be 1, but the answer has no such field"),
        ("health", {"fields": {"database.state": "down"}}, False, 'expected database.state to be "down", found "ok"'),
        ("health", {"fields": {"nodes.1.up": True}}, False, "expected nodes.1.up to be true, found false"),
        ("health", {"fields": {"nodes.0.up": 1}}, False, "expected nodes.0.up to be 1, found true"),
        ("health", {"fields": {"nodes.2.up": True}}, False, "no such field"),
        ("health", {"fields": {"version": 2.4}}, False, 'expected version to be 2.4, found "2.4"'),
        ("words", {"fields": {"state": "ok"}}, False, "status 200, but the answer is not JSON"),
        ("down", {"fields": {"database.state": "ok"}}, False, "expected status 200, found 503"),
        ("down", {"status": 503}, True, "status 503"),
        ("away", {}, False, "expected status 200, found 302 to https://login.example.org/; redirects are not followed"),
        ("away", {"status": 302}, True, "status 302"),
        ("astray", {}, False, "not an address: "),
        ("nested", {"fields": {"0": 1}}, False, "the answer is nested too deeply to be looked at"),
    ],
)
def test_http_check_compares_status_and_json_fields(web, live, path, settings, ok, words):
    outcome = run_check(check(http={"url": at(web, path)} | settings), live)
    assert (outcome.ok, words in outcome.words) == (ok, True), outcome.words


def test_http_check_fails_when_connection_is_refused(live):
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    outcome = run_check(check(http={"url": f"http://127.0.0.1:{port}/"}), live)
    assert not outcome.ok
    assert "Connection refused" in outcome.words


@pytest.mark.parametrize("url", ["http://xn--/", "http://127.0.0.1/\0"])
def test_http_check_fails_on_invalid_address(live, url):
    outcome = run_check(check(http={"url": url}), live)
    assert (outcome.ok, "not an address: " in outcome.words) == (False, True), outcome.words


@pytest.mark.parametrize("path", ["health", "nowhere", "away"])
def test_http_check_sends_login_and_query_without_disclosing_secrets(web, live, path, caplog):
    caplog.set_level(logging.INFO)
    Web.get_nowhere = lambda self: self.send(404)
    outcome = run_check(check(http={"url": at(web, f"{path}?key=hush-query", user="watch:hush-hush@")}), live)
    assert web.asked == [(f"/{path}", "key=hush-query", f"Basic {base64.b64encode(b'watch:hush-hush').decode()}")]
    said = f"{outcome} {caplog.text}"
    assert "hush" not in said
    assert f"127.0.0.1:{web.server_port}/{path}" in outcome.title
    assert outcome.ok == (path == "health")


def test_http_check_fails_at_timeout_when_answer_comes_byte_by_byte(web, live):
    outcome = run_check(check(http={"url": at(web, "drips"), "fields": {"state": "ok"}}, timeout=timedelta(seconds=1)), live)
    assert (outcome.ok, outcome.words) == (False, "There was no answer within 1.0 s.")


def test_http_check_fails_on_endless_answer(web, live):
    outcome = run_check(check(http={"url": at(web, "endless"), "fields": {"state": "ok"}}), live)
    assert (outcome.ok, outcome.words) == (False, "the answer is too long to be looked at")


def test_check_is_retried_until_success(web, live, caplog):
    caplog.set_level(logging.INFO)
    outcome = run_check(check(name="the web", http={"url": at(web, "soon")}, retries=5), live)
    assert (outcome.ok, outcome.words, outcome.title) == (True, "status 200", "the web")
    assert len(web.asked) == 3
    assert "the web, try 2 of 6: expected status 200, found 503" in caplog.text


def test_check_fails_after_last_retry_and_pauses_between_tries(web, live):
    began = time.monotonic()
    outcome = run_check(check(http={"url": at(web, "down")}, retries=2, pause=timedelta(milliseconds=300)), live)
    assert (outcome.ok, outcome.words) == (False, "expected status 200, found 503 (3 tries)")
    assert len(web.asked) == 3
    assert time.monotonic() - began >= 0.6


def test_at_path_finds_fields_and_list_items_of_json():
    document = {"a": [{"b": None}], "0": "zero"}
    assert at_path(document, "a.0.b") is None
    assert at_path(document, "0") == "zero"
    assert at_path(document, "a.b") is at_path(document, "a.-1") is at_path(document, "a.0.b.c")


# PostgreSQL ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected", "ok", "words"),
    [
        ("SELECT count(*) FROM requests", {"at_least": 500}, True, "found 500"),
        ("SELECT count(*) FROM requests", {"equals": 500}, True, "found 500"),
        ("SELECT count(*) FROM requests", {"at_least": 500.5}, False, "expected at least 500.5, found 500"),
        ("SELECT count(*) FROM requests", {"equals": "500"}, False, 'expected "500", found 500'),
        ("SELECT true", {"equals": 1}, False, "expected 1, found true"),
        ("SELECT true", {"equals": True}, True, "found true"),
        ("SELECT 0", {"equals": False}, False, "expected false, found 0"),
        ("SELECT 1.10::numeric", {"equals": 1.1}, True, "found 1.1"),
        ("SELECT '2026-11-23'::date", {"equals": "2026-11-23"}, True, 'found "2026-11-23"'),
        ("SELECT '{\"a\": [1, null]}'::jsonb", {"equals": {"a": [1, None]}}, True, "found"),
        ("SELECT 'NaN'::float8", {"at_least": 0}, False, 'found "nan", which is no number'),
        ("SELECT 'many'", {"at_least": 1}, False, 'found "many", which is no number'),
        ("SELECT true", {"at_least": 1}, False, "found true, which is no number"),
        ("SELECT NULL", {"equals": "x"}, False, 'expected "x", found null'),
        ("SELECT id FROM requests", {"equals": 1}, False, "expected one value, found several rows"),
        ("SELECT 1, 2", {"equals": 1}, False, "expected one value, found 2 columns"),
        ("SELECT 1 WHERE false", {"equals": 1}, False, "expected one value, found no row"),
        ("SELECT 1; SET work_mem = '5MB'", {"equals": 1}, False, "expected one value, but the statement gives none"),
        ("SELECT count(*) FROM nowhere", {"equals": 1}, False, 'relation "nowhere" does not exist'),
        ("DELETE FROM requests RETURNING 1", {"equals": 1}, False, "cannot execute DELETE in a read-only transaction"),
        ("SELECT repeat('x', 5000)", {"equals": "y"}, False, "xxx…"),
        ("SELECT '50%'", {"equals": "50%"}, True, "found"),
    ],
)
def test_sql_check_compares_single_value_of_query(live, query, expected, ok, words):
    outcome = run_check(sql(query, **expected), live)
    assert (outcome.ok, words in outcome.words) == (ok, True), outcome.words
    assert outcome.title == "a query in checked of postgres.main"
    assert len(outcome.words) < 300


def test_sql_check_uses_search_path_of_database(system, live):
    system.sql("CREATE SCHEMA app; CREATE TABLE app.orders (n int); ALTER DATABASE checked SET search_path TO app, public")
    assert run_check(sql("SELECT count(*) FROM orders", equals=0), live).ok
    assert run_check(sql("SELECT count(*) FROM requests", equals=500), live).ok


def test_sql_check_timeout_ends_query_on_server(system, live):
    outcome = run_check(check(sql=SQL | {"query": "SELECT pg_sleep(999)", "equals": 1}, timeout=timedelta(seconds=1)), live)
    assert not outcome.ok
    with closing(system.postgres.connect()) as watcher:
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(999)%' AND state = 'active'"
        wait_for("the query to end", lambda: watcher.execute(running).fetchone() == (0,))


def test_sql_check_query_ends_on_server_after_task_is_killed(system, live):
    pid = os.fork()
    if pid == 0:
        run_check(check(sql=SQL | {"query": "SELECT pg_sleep(998)", "equals": 1}, timeout=timedelta(seconds=2)), live)
        os._exit(0)
    with closing(system.postgres.connect()) as watcher:
        running = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(998)%' AND state = 'active'"
        wait_for("the query to begin", lambda: watcher.execute(running).fetchone() == (1,))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        wait_for("the query to end", lambda: watcher.execute(running).fetchone() == (0,))


def hung(kind):
    """A server that takes connections and says nothing."""
    server = socket.create_server(("127.0.0.1", 0))
    extra = {} if kind == "postgres" else {"directConnection": True}
    return server, Endpoint(id="hung", host="127.0.0.1", port=server.getsockname()[1], login="a", password="hush-hush", extra=extra)


@pytest.mark.parametrize("question", [sql("SELECT 1", equals=1), mongo(at_least=1)], ids=["postgres", "mongo"])
def test_sql_and_mongo_checks_fail_at_timeout_when_server_hangs(system, question):
    server, endpoint = hung("postgres" if question.sql else "mongo")
    with closing(server):
        target = resolve(system.context(connect=lambda name: endpoint), LIVE)
        outcome = run_check(question.model_copy(update={"timeout": timedelta(seconds=1)}), target)
    assert not outcome.ok
    assert "no answer within 1.0 s" in outcome.words or "does not answer" in outcome.words
    assert "hush" not in outcome.words


def test_sql_and_mongo_checks_with_wrong_password_fail_without_disclosing_password(system):
    def connect(name):
        right = system.connect(name)
        return Endpoint(id=name, host=right.host, port=right.port, login=right.login, password="hush-hush", extra=right.extra)

    for question in (sql("SELECT 1", equals=1), mongo(at_least=1)):
        outcome = run_check(question, resolve(system.context(connect=connect), LIVE))
        assert not outcome.ok
        assert "hush" not in outcome.words
        assert f"checked_{'postgres' if question.sql else 'mongo'}" in outcome.words


# MongoDB ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "ok", "words"),
    [
        ({"equals": 300}, True, "found 300"),
        ({"filter": {"_id": {"$lt": 9}}, "equals": 9}, True, "found 9"),
        ({"filter": {"_id": {"$lt": 9}}, "at_least": 10}, False, "expected at least 10, found 9"),
        ({"filter": {"_id": "none"}, "equals": 0}, True, "found 0"),
        ({"collection": "not there", "at_least": 1}, False, "expected at least 1, found 0"),
        ({"collection": "running", "equals": 9}, True, "found 9"),
        ({"collection": "sessions", "filter": {"ends": {"$lt": {"$date": "2002-01-01T00:00:00Z"}}}, "equals": 20}, True, "found 20"),
        ({"pipeline": [{"$group": {"_id": None, "top": {"$max": "$_id"}}}], "equals": 299}, True, "found 299"),
        ({"pipeline": [{"$sort": {"_id": 1}}, {"$limit": 1}, {"$project": {"_id": 0, "state": 1}}], "equals": "state 0"}, True, "found"),
        ({"pipeline": [{"$match": {"_id": -1}}], "equals": 1}, False, "expected one document, found none"),
        ({"pipeline": [{"$limit": 2}], "equals": 1}, False, "expected one document, found several"),
        ({"pipeline": [{"$limit": 1}, {"$set": {"more": 1}}], "equals": 1}, False, "expected one field beside _id, found 2"),
        ({"pipeline": [{"$nonsense": 1}], "equals": 1}, False, "Unrecognized pipeline stage"),
    ],
)
def test_mongo_check_compares_count_or_aggregation_result(live, rest, ok, words):
    outcome = run_check(mongo(**rest), live)
    assert (outcome.ok, words in outcome.words) == (ok, True), outcome.words


def test_mongo_check_timeout_ends_aggregation_on_server(system, live):
    slow = mongo(filter={"$where": "sleep(50) || true"}, at_least=1).model_copy(update={"timeout": timedelta(seconds=1)})
    assert not run_check(slow, live).ok
    with system.mongo.client() as client:
        ops = {"$match": {"command.aggregate": "states", "active": True}}
        wait_for("the aggregation to end", lambda: not list(client.admin.aggregate([{"$currentOp": {}}, ops])))


# Elsewhere, and what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{"$oid": "zz"}, {"$date": "yesterday"}, {"$numberDecimal": "x"}, {"$binary": "x"}, 2**63])
def test_mongo_check_fails_on_filter_value_invalid_in_extended_json(live, value):
    right = mongo(equals=1)
    wrong = right.model_copy(update={"mongo": right.mongo.model_copy(update={"filter": {"a": value}})})
    outcome = run_check(wrong, live)
    assert (outcome.ok, "not one that MongoDB's extended JSON can say" in outcome.words) == (False, True), outcome.words


def test_mongo_check_fails_on_answer_with_invalid_bson(system, live):
    with system.mongo.client() as client:
        text = RawBSONDocument(encode({"_id": 1, "text": "é"}).replace("é".encode(), b"\xff\xff"))
        client.checked.damaged.insert_one(text)
    outcome = run_check(mongo("damaged", pipeline=[{"$limit": 1}], equals="é"), live)
    assert (outcome.ok, "can't be read" in outcome.words) == (False, True), outcome.words


def test_check_with_unexpected_exception_fails_and_is_logged(live, monkeypatch, caplog):
    monkeypatch.setattr(checks, "run_one", lambda *_: {}["nobody thought of this"])
    outcome = run_check(check(argv=("true",)), live)
    assert (outcome.ok, outcome.words) == (False, "it could not be asked: KeyError, see the log")
    assert "nobody thought of this" in caplog.text


def test_sql_and_mongo_checks_translate_names_of_set_to_names_at_target(system, live):
    system.sql("CREATE TABLE IF NOT EXISTS here (n int)")
    with system.mongo.client() as client:
        client["checked_copy"]["states_copy"].insert_many([{"n": n} for n in range(7)])
    elsewhere = RestoreTarget(
        "elsewhere",
        system.context(),
        settings={
            "postgres.main": PostgresTarget(connection="checked_postgres", databases={"checked": "postgres"}),
            "mongo.documents": MongoTarget(
                connection="checked_mongo", databases={"checked": "checked_copy"}, collections={"checked.states": "states_copy"}
            ),
        },
    )
    assert run_check(sql("SELECT current_database()::text", equals="checked"), live).ok
    assert run_check(sql("SELECT current_database()::text", equals="postgres"), elsewhere).ok
    assert run_check(mongo(equals=7), elsewhere).ok
    assert run_check(mongo(equals=300), live).ok


def test_command_check_reports_name_and_output_and_does_not_log_arguments(live, caplog):
    caplog.set_level(logging.INFO)
    outcome = run_check(check(argv=("sh", "-c", "echo fine # hush-hush")), live)
    assert "hush-hush" not in caplog.text
    assert (outcome.ok, outcome.words, outcome.title) == (True, "fine", "sh")
    outcome = run_check(check(argv=("sh", "-c", "echo why; false"), name="what's in the way", retries=1), live)
    assert (outcome.ok, outcome.words, outcome.title) == (False, "why (2 tries)", "what's in the way")


def test_check_of_source_missing_at_target_fails(system):
    nowhere = RestoreTarget("nowhere", system.context(), settings={})
    outcome = run_check(sql("SELECT 1", equals=1), nowhere)
    assert (outcome.ok, outcome.words) == (False, "The target nowhere does not name postgres.main.")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "write exactly one of argv, http, sql, mongo"),
        ({"argv": ["true"], "http": {"url": "http://a/"}}, "not argv and http"),
        ({"http": {"url": "http:///health"}}, "write an address with a host"),
        ({"http": {"url": "http://[1/health"}}, "write an address with a host"),
        ({"sql": SQL | {"query": "SELECT 1"}}, "write exactly one of equals, at_least"),
        ({"mongo": MONGO | {"collection": "a", "filter": {"a": 1}, "pipeline": [{"$limit": 1}], "equals": 1}}, "filter or pipeline"),
        ({"mongo": MONGO | {"collection": "a", "pipeline": [{"$out": "b"}], "equals": 1}}, "leave $out out of the pipeline"),
        ({"mongo": MONGO | {"collection": "a", "filter": {"a": {"$in": [{"$oid": "zz"}]}}, "equals": 1}}, "extended JSON at a.$in.0:"),
        ({"mongo": MONGO | {"collection": "a", "filter": {"$date": "yesterday"}, "equals": 1}}, "mongo.filter\n"),
        ({"mongo": MONGO | {"collection": "a", "filter": {"b": {"$numberDecimal": "x"}}, "equals": 1}}, "extended JSON at b:"),
        ({"mongo": MONGO | {"collection": "a", "pipeline": [{"$limit": 1}, {"$skip": 2**63}], "equals": 1}}, "mongo.pipeline.1\n"),
    ],
)
def test_check_with_invalid_settings_is_refused_by_plan_model(wrong, said):
    with pytest.raises(ValidationError) as refused:
        Check(**wrong)
    assert said in str(refused.value)


def test_same_compares_numbers_by_value_and_separates_bool_from_int():
    assert same({"a": [1, 2.0]}, {"a": [1.0, 2]})
    assert not same({"a": 1}, {"a": 1, "b": 2})
    assert not same([1], [1, 1])
    assert not same([True], [1])
