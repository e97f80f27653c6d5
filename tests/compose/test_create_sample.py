"""The sample of docker-compose.yaml is made once, whole, also if its maker is killed; nothing else is touched."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sandbox import fingerprints, sample
from tools.compose import create_sample
from tools.compose.create_sample import SampleMongo, SamplePostgres
from tools.compose.sample_folders import SampleFolders

PROJECT = Path(__file__).parent.parent.parent
SCALE = 0.05


class Killed(BaseException):
    """Stands for the end of the program at a moment."""


@pytest.fixture
def postgres(postgres_server, monkeypatch):
    monkeypatch.setenv("PGPORT", str(postgres_server.port))
    yield SamplePostgres("127.0.0.1", postgres_server.password)
    with postgres_server.connect() as connection:
        for name in (sample.DATABASE, create_sample._UNFINISHED):
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        connection.execute("DROP ROLE openmanus_app, openmanus_reports")


@pytest.fixture
def mongo(mongo_server):
    yield SampleMongo(f"127.0.0.1:{mongo_server.port}", mongo_server.password)
    with mongo_server.client() as client:
        client.drop_database(sample.DATABASE)
        client[sample.DATABASE].command("dropUser", "openmanus_app")


@pytest.fixture
def folders(tmp_path):
    made = SampleFolders(tmp_path / "home", tmp_path / "home" / "storage")
    made.files.mkdir(parents=True)
    return made


def kill_while_it_makes(part, begun):
    """Kill, without a word, a program that makes a part, once it has begun."""
    script = f"from tools.compose.create_sample import *; {part!r}.make(2.0)"
    with subprocess.Popen([sys.executable, "-c", script], cwd=PROJECT, env={**os.environ, "PYTHONPATH": "."}) as making:
        deadline = time.monotonic() + 60
        while not begun():
            assert making.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        making.send_signal(signal.SIGKILL)


def test_sample_postgres_whose_maker_was_killed_is_made_anew(postgres):
    def begun():
        with postgres.connect() as connection:
            return connection.execute("SELECT 1 FROM pg_stat_activity WHERE datname = 'unfinished_sample'").fetchall()

    kill_while_it_makes(postgres, begun)
    assert not postgres.has_data()
    postgres.make(SCALE)
    assert postgres.has_data()
    assert fingerprints.postgres(postgres)["customers"][0] == 50_000 * SCALE
    with postgres.connect(sample.DATABASE) as connection:
        assert connection.execute("SELECT datname FROM pg_database WHERE datname LIKE '%sample%'").fetchall() == []
        assert connection.execute("SHOW default_text_search_config").fetchone() == ("pg_catalog.english",)


def test_sample_mongo_whose_maker_was_killed_is_made_anew_beside_what_others_put_there(mongo):
    def begun():
        with mongo.client() as client:
            return client[sample.DATABASE].agent_states.estimated_document_count()

    kill_while_it_makes(mongo, begun)
    with mongo.client() as client:
        client[sample.DATABASE].of_somebody.insert_one({"kept": True})
    assert not mongo.has_data()
    mongo.make(SCALE)
    assert mongo.has_data()
    made = fingerprints.mongo(mongo)
    with mongo.client() as client:
        assert client[sample.DATABASE].of_somebody.count_documents({"kept": True}) == 1
        assert set(client[sample.DATABASE].list_collection_names()) == {*sample.COLLECTIONS, "of_somebody", "system.views"}
        client.drop_database(sample.DATABASE)
    mongo.make(SCALE)
    assert {name: made[name] for name in made if not name.startswith("of_somebody")} == fingerprints.mongo(mongo)


@pytest.mark.parametrize("renamed", range(10))
def test_sample_files_whose_maker_is_killed_are_completed(folders, tmp_path, monkeypatch, renamed):
    """Killed in the configuration, and then before each change of a name."""
    whole = SampleFolders(tmp_path / "whole", tmp_path / "whole" / "storage")
    whole.files.mkdir(parents=True)
    whole.make(SCALE)
    with monkeypatch.context() as patched:
        if renamed == 0:
            patched.setattr(sample, "fill_config", die)
        else:
            patched.setattr(Path, "rename", die_at(renamed))
        if renamed <= 7:
            with pytest.raises(Killed):
                folders.make(SCALE)
        else:
            folders.make(SCALE)
    assert folders.has_data() == (renamed > 7)
    if not folders.has_data():
        folders.make(SCALE)
    assert fingerprints.files(folders.files) == fingerprints.files(whole.files)
    assert settings(folders) == settings(whole)
    assert {path.name for path in folders.home.iterdir()} == {".env", "docker-compose.yml", "custom", "storage"}
    assert folders.has_data()


def settings(folders):
    """Mode and content of each file of the configuration, which are all newer than the sample's files."""
    found = (path for path in folders.home.rglob("*") if path.is_file() and folders.files not in path.parents)
    return {path.relative_to(folders.home): (path.stat().st_mode, path.read_text()) for path in found}


def die(*_):
    raise Killed


def die_at(number):
    real, calls = Path.rename, iter(range(1, 1000))

    def rename(path, target):
        if next(calls) == number:
            raise Killed
        return real(path, target)

    return rename


@pytest.mark.parametrize("where", ["home", "files"])
@pytest.mark.parametrize("renamed", [None, 0, 1, 2, 4, 6])
def test_sample_files_are_not_written_beside_those_of_somebody_else(folders, monkeypatch, where, renamed):
    """Nor does one go on that was killed, if there are such by then; even if they have the names of the sample's."""
    if renamed is not None:
        monkeypatch.setattr(Path, "rename", die_at(renamed + 1))
        with pytest.raises(Killed):
            folders.make(SCALE)
        monkeypatch.undo()
    theirs = getattr(folders, where) / {"home": ".env", "files": "2025"}[where]
    if theirs.exists():
        theirs.rename(theirs.with_name(".openmanus-sample-of-before"))
    theirs.write_text("real")
    assert folders.has_data()
    assert theirs.read_text() == "real"


def test_sample_main_makes_each_part_once(folders, postgres, mongo, s3_server, monkeypatch, capsys):
    monkeypatch.setattr(create_sample, "SamplePostgres", lambda *_: postgres)
    monkeypatch.setattr(create_sample, "SampleMongo", lambda *_: mongo)
    monkeypatch.setattr(create_sample.SampleBucket, "client", lambda _: s3_server.client())
    names = {"OPENMANUS_HOME": folders.home, "OPENMANUS_FILES": folders.files, "SAMPLE_PASSWORD": "x", "SAMPLE_SCALE": "0.01"}
    for name, value in {**names, "BACKUP_BUCKET": "sample-made-once"}.items():
        monkeypatch.setenv(name, str(value))
    assert create_sample.main() == 0
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["made"] * 4
    before = (fingerprints.postgres(postgres), fingerprints.mongo(mongo), fingerprints.files(folders.files))
    assert create_sample.main() == 0
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == ["there already"] * 4
    assert (fingerprints.postgres(postgres), fingerprints.mongo(mongo), fingerprints.files(folders.files)) == before
