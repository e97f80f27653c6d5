"""``RESTORE.md`` executed word by word: a set out of a bucket, the tools that it names and no others, servers that have nothing yet."""

import json
import os
import re
import shutil
import subprocess
from collections import Counter
from contextlib import closing as closed_after
from pathlib import Path

import pytest
from bson import Timestamp

from recovery.crypto.key_kit import create_keys
from recovery.sets.transfer import upload_set
from sandbox import fingerprints, toolchain
from sandbox.servers import Mongo, Postgres, postgres_bin
from tests.support.sets import s3_destination
from tests.support.system import SampleSystem

STOCK = ("age", "zstd", "tar", "openssl", "sha256sum", "sh", "cat", "cp", "grep", "mkdir")
POSTGRES = ("psql", "pg_restore")
MONGO = ("mongorestore",)


@pytest.fixture(scope="module")
def original(server_folder, postgres_server, mongo_server, tmp_path_factory):
    """A small system, with what is hard to bring back, and one set of it."""
    made = SampleSystem(tmp_path_factory.mktemp("original") / "it's small", "small", postgres=postgres_server, mongo=mongo_server)
    with closed_after(postgres_server.connect()) as connection:
        connection.execute("CREATE ROLE guide_owner LOGIN PASSWORD 'secret of the owner'; CREATE ROLE guide_readers")
        connection.execute("GRANT guide_readers TO guide_owner; ALTER DATABASE small OWNER TO guide_owner")
        connection.execute("ALTER DATABASE small SET work_mem = '7MB'")
        connection.execute("CREATE TABLE in_postgres AS SELECT n FROM generate_series(1, 50) AS n")
    made.sql("CREATE TABLE wide AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 3000) AS n")
    made.sql("GRANT SELECT ON wide TO guide_readers; SELECT lo_from_bytea(0, 'large object')")
    with mongo_server.client() as client:
        client.small.create_collection("metrics", timeseries={"timeField": "t", "metaField": "m"})
        client.small["odd name"].insert_one({"ts": Timestamp(1, 2)})
        for name in ("scans", "pages"):
            client.small[name].insert_many([{"_id": n, "data": os.urandom(2000)} for n in range(100)])
        client.small.command("createRole", "writer_of_small", privileges=[], roles=["readWrite"])
        client.small.command("createUser", "small_app", pwd="secret of the app", roles=["writer_of_small"])
        client.admin.command("createUser", "reader_from_admin", pwd="secret of the reader", roles=[{"role": "read", "db": "small"}])
    os.setxattr(made.storage / "top.txt", "user.origin", b"scanner")
    (made.storage / "hard").hardlink_to(made.storage / "top.txt")
    path = made.plans / "small.yaml"
    path.write_text(path.read_text().replace("databases: [small]}\n  mongo", "databases: [small, postgres]}\n  mongo"))
    made.set_id = made.back_up()
    yield made
    made.drop()
    with mongo_server.client() as client:
        client.admin.command("dropUser", "reader_from_admin")
        client.small.command("dropAllUsersFromDatabase")
        client.small.command("dropAllRolesFromDatabase")
    with closed_after(postgres_server.connect()) as connection:
        connection.execute("DROP TABLE in_postgres; DROP ROLE guide_owner, guide_readers")


@pytest.fixture(scope="module")
def guide(original, s3_server, tmp_path_factory):
    """The set as somebody copied it out of a bucket, object by object, with what somebody else had put there."""
    bucket = s3_destination(s3_server)
    upload_set(original.folder / "near" / "small" / original.set_id, bucket)
    folder = tmp_path_factory.mktemp("fetched") / "set"
    client, prefix = s3_server.client(), f"{bucket._prefix}small/{original.set_id}/"
    for entry in client.list_objects_v2(Bucket=bucket._bucket, Prefix=prefix)["Contents"]:
        path = folder / entry["Key"].removeprefix(prefix)
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket._bucket, entry["Key"], str(path))
    foreign = create_keys(tmp_path_factory.mktemp("foreign"), "foreign").folder
    for name in ("identity.txt", "public.pem"):
        shutil.copy(foreign / name, folder)
    planted = folder / "restored" / "files" / "uploads" / "uploads" / "planted"
    planted.parent.mkdir(parents=True)
    planted.write_text("from whoever can write to the bucket")
    return folder


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder with the programs that the guide names, and no other."""
    folder = tmp_path_factory.mktemp("bin")
    for names, where in ((STOCK, None), (POSTGRES, postgres_bin(18)), (MONGO, toolchain.mongo_tools())):
        for name in names:
            (folder / name).symlink_to(shutil.which(name, path=where))
    return folder


def commands(guide: Path, section: str = "", way: str = "") -> list[str]:
    """Those of a section; where it has several ways, those for all of them and of one."""
    text = (guide / "RESTORE.md").read_text()
    parts = [part for part in re.split(r"^## ", text, flags=re.MULTILINE) if section in part.splitlines()[0]]
    if way:
        common, *ways = re.split(r"^### ", parts[0], flags=re.MULTILINE)
        parts = [common, *(each for each in ways if each.startswith(way))]
    return [block for part in parts for block in re.findall(r"^```sh\n(.*?)^```$", part, flags=re.MULTILINE | re.DOTALL)]


@pytest.fixture
def execute(programs, original, tmp_path):
    """Run commands of the guide in a new folder, as a shell that finds nothing but the named programs."""
    folder = tmp_path / "new folder"
    folder.mkdir()

    def run(guide, block, **environment):
        environ = {"PATH": str(programs), "HOME": str(folder), "LC_ALL": "C.UTF-8", "SET": str(guide), "KIT": str(original.keys.folder)}
        argv = [str(programs / "sh"), "-euc", block]
        return subprocess.run(argv, cwd=folder, env=environ | environment, capture_output=True, text=True, check=False)

    return run


def test_restore_guide_has_every_tool_section_and_warning(guide):
    packs = Counter((json.loads(line)["source"], json.loads(line)["artifact"]) for line in (guide / "packs.jsonl").read_text().splitlines())
    for artifact in (("postgres.main", "small"), ("mongo.documents", "documents"), ("files.uploads", "uploads")):
        assert packs[artifact] > 1, packs
    text = (guide / "RESTORE.md").read_text()
    needed = text.split("You need", 1)[1].split("\n\n", 1)[0]
    assert all(f"`{name}`" in needed for name in (*STOCK, *POSTGRES, *MONGO) if name != "sh"), needed
    assert "as root: for any other user" in text.split("## 2. Unpack")[1].split("```sh")[0], "owners are lost without a word"
    assert "--setParameter ttlMonitorEnabled=false" in text.split("## 5. MongoDB")[1].split("```sh")[0], "loading is what begins it"
    assert "{{" not in text
    assert "wildcard projections" in text.split("## 5. MongoDB")[1].split("\n## ")[0], "mongorestore reorders fields in options of indexes"
    assert "{%" not in text
    assert not re.search(r"\n{4,}", text)
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## 1. Is it genuine and whole?", "## 2. Unpack", "## 3. Configuration", "## 4. PostgreSQL", "## 5. MongoDB", "## 6. Files",
    ]  # fmt: skip


def test_restore_guide_commands_detect_a_changed_pack_and_a_changed_manifest(guide, execute, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(guide, copy)
    signature, text, files = commands(copy, "genuine")
    assert "Signature Verified Successfully" in execute(copy, signature).stdout
    hashes = re.findall(r"[0-9a-f]{64}", execute(copy, text).stdout)
    assert len(hashes) == 2
    assert hashes[0] == hashes[1]
    assert execute(copy, files).returncode == 0
    pack = max(copy.rglob("*.tar.zst.age"))
    *data, last = pack.read_bytes()
    pack.write_bytes(bytes([*data, last ^ 1]))
    assert f"{pack.relative_to(copy)}: FAILED" in execute(copy, files).stdout
    (copy / "manifest.json").write_text((copy / "manifest.json").read_text().replace("openmanus", "otherwise", 1))
    assert execute(copy, signature).returncode != 0
    checked = {line.split("  ", 1)[1] for line in files.splitlines() if re.match("[0-9a-f]{64}  ", line)}
    rest = {"manifest.json", "manifest.json.sig", "RESTORE.md", "identity.txt", "public.pem", "restored/files/uploads/uploads/planted"}
    assert checked == {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} - rest


def test_restore_guide_commands_restore_every_source_on_new_servers(original, guide, execute, server_folder, tmp_path):
    before = original.fingerprint()
    for block in [*commands(guide, "genuine"), *commands(guide, "Unpack")]:
        done = execute(guide, block)
        assert done.returncode == 0, done.stderr
    shutil.rmtree(original.home)
    (original.home / "custom").mkdir(parents=True)
    for block in [*commands(guide, "Configuration"), *commands(guide, "Files")]:
        done = execute(guide, block)
        assert done.returncode == 0, done.stderr
    for source_id in ("files.uploads", "config.settings"):
        assert original.fingerprint()[source_id] == before[source_id]
    assert os.getxattr(original.storage / "top.txt", "user.origin") == b"scanner"
    for way in ("If you trust all owners", "If you do not"):
        with Postgres(server_folder / way) as postgres:
            server = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "postgres", "PGPASSWORD": postgres.password}
            done = execute(guide, "".join(commands(guide, "PostgreSQL", way)), **server, LOADER_PASSWORD="new and random")
            assert done.returncode == 0, done.stderr
            errors = [line for line in done.stderr.splitlines() if "ERROR" in line]
            assert all("already exists" in line for line in errors), errors
            found = {name: fingerprints.postgres(postgres, name) for name in ("small", "postgres")}
            expected = {"small": before["postgres.main"], "postgres": fingerprints.postgres(original.postgres, "postgres")}
            if way == "If you do not":  # what belonged to superusers goes to nobody
                kept = {fact for name in found for fact in found[name] if found[name][fact] != expected[name].get(fact)}
                assert all("owner" in fact for fact in kept), kept
                expected = {name: expected[name] | {fact: found[name][fact] for fact in kept if fact in found[name]} for name in found}
            assert found == expected
            with closed_after(postgres.connect("small", user="guide_owner", password="secret of the owner")) as connection:
                assert connection.execute("SELECT count(*) FROM pg_largeobject_metadata").fetchone() == (1,)
    with Mongo(tmp_path / "new mongo") as mongo:
        for block in commands(guide, "MongoDB"):
            uri = f"mongodb://root:{mongo.password}@127.0.0.1:{mongo.port}/?authSource=admin"
            done = execute(guide, block, MONGO_URI=uri)
            assert done.returncode == 0, done.stderr
            assert " 0 document(s) failed to restore" in done.stderr
        assert fingerprints.mongo(mongo, "small") == before["mongo.documents"]
        with mongo.client(username="small_app", password="secret of the app", authSource="small") as client:
            assert client.small.states.count_documents({}) == 300
        with mongo.client(username="reader_from_admin", password="secret of the reader", authSource="admin") as client:
            assert client.small.states.count_documents({}) == 300
