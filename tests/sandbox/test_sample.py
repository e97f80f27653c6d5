import os
import shutil
import subprocess

import pytest

from sandbox import fingerprints, sample, toolchain

SCALE = 0.01


@pytest.fixture(scope="module")
def postgres_sample(postgres_server):
    sample.fill_postgres(postgres_server, SCALE)
    yield postgres_server
    with postgres_server.connect() as connection:
        connection.execute("DROP DATABASE IF EXISTS openmanus WITH (FORCE)")
        connection.execute("DROP ROLE openmanus_app, openmanus_reports")


@pytest.fixture(scope="module")
def mongo_sample(mongo_server):
    sample.fill_mongo(mongo_server, SCALE)
    yield mongo_server
    with mongo_server.client() as client:
        client.drop_database("openmanus")
        client.openmanus.command("dropUser", "openmanus_app")


@pytest.fixture
def uploads(tmp_path):
    sample.fill_files(tmp_path / "uploads", SCALE)
    return tmp_path / "uploads"


@pytest.fixture
def settings(tmp_path):
    sample.fill_config(tmp_path / "settings")
    return tmp_path / "settings"


def test_sample_postgres_equals_its_fingerprint_after_disaster_and_pg_restore(postgres_sample, tmp_path):
    before = fingerprints.postgres(postgres_sample)
    assert before["service_requests"][0] == 1400
    assert {"customers", "invoice_number", "revenue_by_month", "(views)", "(triggers)"} <= before.keys()
    server = ["-h", "127.0.0.1", "-p", str(postgres_sample.port), "-U", "postgres"]
    environment = {**os.environ, "PGPASSWORD": postgres_sample.password}
    subprocess.run([postgres_sample.bin / "pg_dump", *server, "-Fc", "-f", tmp_path / "dump", "openmanus"], check=True, env=environment)

    sample.disaster(postgres=postgres_sample)
    with postgres_sample.connect() as connection:
        assert connection.execute("SELECT 1 FROM pg_database WHERE datname = 'openmanus'").fetchall() == []

    subprocess.run([postgres_sample.bin / "pg_restore", *server, "-C", "-d", "postgres", tmp_path / "dump"], check=True, env=environment)
    assert fingerprints.postgres(postgres_sample) == before


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ("UPDATE customers SET phone = NULL WHERE id = (SELECT min(id) FROM customers WHERE phone IS NOT NULL)", {"customers"}),
        ("DELETE FROM payments WHERE id = 1", {"payments"}),
        ("SELECT nextval('invoice_number')", {"invoice_number"}),
        ("DROP INDEX payments_by_invoice", {"(indexes)"}),
        ("REVOKE INSERT ON payments FROM openmanus_app", {"(owners and grants)"}),
    ],
)
def test_postgres_fingerprint_detects_small_changes(postgres_sample, change, seen):
    before = fingerprints.postgres(postgres_sample)
    with postgres_sample.connect("openmanus") as connection:
        connection.execute(change)
    after = fingerprints.postgres(postgres_sample)
    assert {name for name in before if before[name] != after[name]} == seen


def test_sample_mongo_equals_its_fingerprint_after_disaster_and_mongorestore(mongo_sample, tmp_path):
    before = fingerprints.mongo(mongo_sample)
    assert before["documents"][0] == 70
    settings = tmp_path / "mongo.yaml"
    settings.write_text(f"uri: mongodb://root:{mongo_sample.password}@127.0.0.1:{mongo_sample.port}/?authSource=admin\n")
    tools = toolchain.mongo_tools()
    subprocess.run([tools / "mongodump", "--quiet", f"--config={settings}", "--db=openmanus", f"--out={tmp_path}"], check=True)

    sample.disaster(mongo=mongo_sample)
    assert fingerprints.mongo(mongo_sample) == {}

    subprocess.run([tools / "mongorestore", "--quiet", f"--config={settings}", "--nsInclude=openmanus.*", tmp_path], check=True)
    assert fingerprints.mongo(mongo_sample) == before

    with mongo_sample.client() as client:
        client.openmanus.documents.update_one({}, {"$set": {"title": "Changed"}})
        client.openmanus.sessions.drop_index("expires_at_1")
    after = fingerprints.mongo(mongo_sample)
    assert {name for name in before if before[name] != after[name]} - {"drafts"} == {"documents", "sessions (indexes, options)"}


def test_files_fingerprint_is_equal_for_a_copy_and_differs_for_a_split_hard_link(uploads, tmp_path):
    sample.fill_files(tmp_path / "again", SCALE)
    assert fingerprints.files(tmp_path / "again") == fingerprints.files(uploads)
    assert (uploads / "latest").is_symlink()
    assert any(path.stat().st_nlink == 2 for path in uploads.rglob("*.*"))

    subprocess.run(["cp", "-a", uploads, tmp_path / "copy"], check=True)
    (tmp_path / "copy" / ".recovery-1").mkdir()
    assert fingerprints.files(tmp_path / "copy") == fingerprints.files(uploads)

    linked = next(path for path in (tmp_path / "copy").rglob("again-*"))
    content = linked.read_bytes()
    linked.unlink()
    linked.write_bytes(content)
    assert fingerprints.files(tmp_path / "copy") != fingerprints.files(uploads)


def test_disaster_empties_uploads_and_deletes_the_secrets(uploads, settings):
    before = fingerprints.config(settings)
    assert (settings / ".env").stat().st_mode & 0o777 == 0o600
    sample.disaster(files=uploads, config=settings)
    assert fingerprints.files(uploads) == {}
    assert fingerprints.config(settings) == {name: value for name, value in before.items() if name != ".env"}
    shutil.rmtree(settings / "custom" / "prompts")
    assert fingerprints.config(settings)["custom"] != before["custom"]
