"""PostgreSQL's client tools in containers of the server's own image."""

import json
import secrets
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from threading import Thread

import pytest
import requests

from recovery.common.errors import ContainerError, RecoveryError, ToolError
from recovery.runners.docker import stream, toolbox, tools
from recovery.runners.docker.tools import ContainerRunner
from sandbox.containers.stand_ins import user
from tests.docker.test_cuts import cut_at_random, wait_for
from tests.runners import test_base as every_runner
from tests.support.containers import CuttingProxy, Reached, ReachedSite, engine_of
from tests.support.postgres_site import HARD, contents, texts
from tests.support.processes import started
from tests.support.sets import run_python

pytestmark = [pytest.mark.docker, pytest.mark.servers]

# What every runner promises; of a container, other tests ask for its search path and for what a kill leaves.
test_stderr_is_logged = every_runner.test_tool_stderr_is_logged_completely
test_lines = every_runner.test_tool_stderr_reaches_on_line_by_lines_with_invalid_bytes_replaced
test_failure = every_runner.test_tool_failure_names_exit_status_and_last_lines_and_no_argument
test_failure_after_output = every_runner.test_tool_failure_is_raised_after_all_output_was_read
test_wait = every_runner.test_tool_wait_in_the_block_gives_exit_status_and_last_lines
test_environment = every_runner.test_tool_environment_is_neither_logged_nor_in_the_error
test_output = every_runner.test_run_returns_the_complete_binary_output
test_partly_read_output = every_runner.test_tool_with_partly_read_output_fails_and_does_not_hang
test_shared_files = every_runner.test_runner_with_shared_files_reads_and_writes_folders_of_the_worker
test_missing_tool = every_runner.test_missing_tool_error_names_the_searched_folders
test_first_executable = every_runner.test_find_tool_takes_the_first_executable_file_of_the_folders
test_version = every_runner.test_version_is_the_first_line_of_the_program_as_installed_now
SHOP = (
    "CREATE SEQUENCE number START 7",
    "CREATE TABLE customer (id int PRIMARY KEY, name text)",
    "INSERT INTO customer SELECT n, 'c' || n FROM generate_series(1, 50) n",
    "CREATE TABLE orders (id int PRIMARY KEY DEFAULT nextval('number'), customer int REFERENCES customer)",
    "INSERT INTO orders (customer) SELECT n FROM generate_series(1, 50) n",
)


@pytest.fixture
def staging(tmp_path_factory):
    return tmp_path_factory.mktemp("staging")


@pytest.fixture
def runner(engine, image_container, staging):
    opened = engine_of(engine)
    made = ContainerRunner(opened, opened.container(image_container.reach), staging)
    yield made
    made.close()


@pytest.fixture
def tmp_path(request, tmp_path):
    """Where tools see what a test writes there."""
    if "runner" not in request.fixturenames:
        return tmp_path
    place = request.getfixturevalue("runner").scratch / "of the test"
    place.mkdir()
    return place


@pytest.fixture
def reached(engine, staging):
    made = Reached(engine, staging)
    yield made
    made.ways.close()


@pytest.fixture
def site(image_container, tmp_path, reached):
    made = ReachedSite(image_container, tmp_path, reached, ("reach",), ("hard_owner", "hard_reader"))
    yield made
    made.clean()


def boxes(opened, name):
    """The containers for client tools of a server."""
    found = opened.client.containers(all=True, filters={"label": toolbox._LABEL})
    return [each for each in found if opened.client.inspect_container(each["Id"])["HostConfig"]["NetworkMode"].endswith(name)]


# All that a source does ---------------------------------------------------------------------------------------------------


def test_whole_database_goes_there_and_back_without_a_tool_of_the_worker(site, each_way, opened):
    site.create("reach")
    site.load("reach", HARD)
    with started() as heard:
        set_folder = site.back_up(site.source("reach", schema_sql=True))
        site.sql("reach", "CREATE TABLE later ()")
        restore = site.restore(set_folder)
        assert texts(site.source("reach"), restore, "refusal") == ""
        source = site.source("reach")
        source.stage(restore)
        assert source.verify_staged(restore) == []
        source.swap(restore)
        assert site.sql("reach", "SELECT to_regclass('later')") == [(None,)]
        source.roll_back(restore)
        source.discard(restore)
    assert {Path(argv[0]).name for argv in heard} & {"pg_dump", "pg_dumpall", "pg_restore", "psql"} == set()
    assert boxes(opened, site.server.id)
    site.reached.ways.close()
    assert boxes(opened, site.server.id) == []


def test_single_table_and_in_place_restores_and_other_names_work_by_the_images_tools(site):
    site.create("reach", *SHOP)
    set_folder = site.back_up(site.source("reach"))
    site.sql("reach", "DELETE FROM orders")
    source, restore = site.source("reach"), site.restore(set_folder, only=["reach.public.orders"])
    source.stage(restore)
    assert source.verify_staged(restore) == []
    source.swap(restore)
    source.finalize(restore)
    assert site.sql("reach", "SELECT count(*) FROM orders") == [(50,)]
    site.sql("reach", "DROP TABLE orders")
    restore = site.restore(set_folder, in_place=True)
    source.replace(restore)
    assert source.verify_staged(restore) == []
    source.let_in(restore)
    source.finalize(restore)
    assert site.sql("reach", "SELECT count(*) FROM orders") == [(50,)]


def test_excluded_table_with_a_name_in_another_encoding_is_left_out(site):
    site.sql("postgres", "CREATE DATABASE reach ENCODING latin1 LOCALE 'C' TEMPLATE template0")
    site.sql("reach", 'CREATE TABLE "größe $(x)" ()', "CREATE TABLE kept ()")
    set_folder = site.back_up(site.source("reach", exclude=['reach.public."größe $(x)"']))
    assert {name for _, name in contents(set_folder, "reach", "table")} == {"public.kept"}


def test_source_without_the_tools_on_worker_and_image_names_the_image(reached, postgres_container):
    with pytest.raises(ToolError, match=r"client tools .* are not all here"):
        reached.postgres(postgres_container).try_out()


# Whom it trusts -----------------------------------------------------------------------------------------------------------


def test_container_has_no_rights_and_sees_only_what_it_is_given(runner, staging, opened, image_container):
    for name in ("beside", "dump"):
        (staging / name / "in").mkdir(parents=True)
        (staging / name / "in" / "file").write_text(name)
    (staging / "dump" / "in" / "file").unlink()
    seen = runner.run(["find", staging, "-name", "file"], reads=staging / "beside" / "in", writes=staging / "dump" / "in")
    assert seen.decode().split() == [str(staging / "beside" / "in" / "file")]
    for forbidden in (staging / "beside" / "in" / "new", runner.scratch / "new", staging / "new", Path("/etc/new")):
        with pytest.raises(ToolError, match="touch"):
            runner.run(["touch", forbidden], reads=staging / "beside" / "in", writes=staging / "dump" / "in")
    kinds = {mount["Destination"]: mount["Type"] for mount in opened.client.inspect_container(runner._box(None).id)["Mounts"]}
    assert [kinds[each] for each in opened.client.inspect_container(image_container.id)["Config"]["Volumes"]] == ["tmpfs"]
    assert set(kinds.values()) == {"bind", "tmpfs"}
    assert b"CapEff:\t0000000000000000" in runner.run(["cat", "/proc/self/status"])
    assert b"NoNewPrivs:\t1" in runner.run(["cat", "/proc/self/status"])


def test_no_password_is_seen_by_who_may_ask_the_engine(site, opened, docker_engine):
    password = site.server.password
    source = site.source("reach", "postgres")
    site.create("reach", "CREATE TABLE t AS SELECT n FROM generate_series(1, 500000) n")
    found = []
    began = int(time.time())

    def look(*_):
        for box in boxes(opened, site.server.id):
            details = opened.client.inspect_container(box["Id"])
            found.append(json.dumps(details) + json.dumps(opened.client.top(box["Id"])))
            found.extend(json.dumps(opened.client.exec_inspect(each)) for each in details["ExecIDs"] or [])
            assert opened.client.logs(box["Id"]) == b""

    (site.folder / "dump").mkdir(parents=True)
    source.dump(site.folder / "dump", look)
    look()
    events = docker_engine.docker("events", "--since", str(began - 1), "--until", str(int(time.time()) + 1))
    assert "pg_dump" in events
    assert found
    assert password not in "".join(found) + events


def test_folder_that_the_engines_machine_does_not_have_is_an_error_before_anything(site, staging, monkeypatch, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    monkeypatch.setattr(toolbox, "place_of", lambda _, path: elsewhere / path.name)
    with pytest.raises(ContainerError, match=r"Starting a container .* failed"):
        site.source("postgres").try_out()
    site.reached.ways.close()
    monkeypatch.setattr(toolbox, "place_of", lambda *_: elsewhere)
    elsewhere.mkdir()
    with pytest.raises(ContainerError, match=f"do not see this worker's folder {staging}"):
        site.source("postgres").try_out()


@pytest.mark.parametrize("strange", ["ln -s /etc/passwd $0/toc.dat", "mkfifo $0/toc.dat", "mkdir $0/toc.dat"])
def test_what_is_no_file_in_the_folder_that_a_tool_wrote_is_an_error(runner, staging, strange):
    (staging / "dump").mkdir()
    with pytest.raises(ToolError, match=r"sh wrote what is no file into .*: toc\.dat"):
        runner.run(["sh", "-c", strange, staging / "dump"], writes=staging / "dump")


def test_words_of_a_tool_forge_no_log_and_have_an_end(runner, caplog, monkeypatch):
    heard = []
    argv = ["sh", "-c", r"printf 'a\rb\033[2J\n' >&2; exit 3"]
    with caplog.at_level("INFO", "recovery"), pytest.raises(ToolError) as failed:
        runner.run(argv)
    with pytest.raises(ToolError), runner.tool(argv, on_line=heard.append):
        pass
    assert heard == [r"a\rb\x1b[2J"]
    assert "\r" not in caplog.text + str(failed.value)
    assert "\x1b" not in caplog.text + str(failed.value)
    monkeypatch.setattr(tools, "_MOST_WORDS", 1000)
    with pytest.raises(ToolError, match="words without end"):
        runner.run(["sh", "-c", "yes >&2"])


def test_version_of_a_tool_is_short_and_on_one_line(runner):
    program = runner.scratch / "program"
    program.write_text("#!/bin/sh\nprintf '\\033%05000d' 1\n")
    program.chmod(0o755)
    assert runner.version(program).startswith(r"\x1b000")
    assert len(runner.version(program)) < 300


def test_certificates_are_seen_and_one_that_is_not_there_is_not_there_for_the_tools(runner, staging):
    (staging / "root.crt").write_text("certificate")
    assert runner.run(["cat", runner.seen(staging / "root.crt")]) == b"certificate"
    assert not runner.has(runner.seen(staging / "none.crt"))


WORKER = """
import os, sys
from pathlib import Path
from recovery.common.connections import Endpoint
from recovery.common.errors import RecoveryError
from recovery.plan.docker import DockerContainer, Reach
from recovery.plan.kinds.postgres import PostgresSettings
from recovery.runners.local import LOCAL
from recovery.runners.ways import Ways
from recovery.sources.base import Access
from recovery.sources.postgres.source import Postgres
name, staging = sys.argv[1:]
with Ways() as ways:
    connect = {"db": Endpoint("db", login="postgres", password=os.environ["SECRET"])}.__getitem__
    access = Access(connect, LOCAL, (), ways, Path(staging))
    settings = PostgresSettings(connection="db", reach=Reach(docker=DockerContainer(container=name)))
    folder = Path(staging, "dump")
    try:
        source = Postgres.of("main", settings, None, access)
        folder.mkdir()
        print(source.dump(folder, lambda: None).model_dump_json())
        print(os.geteuid(), *(each.name for each in folder.glob("database-*/toc.dat")))
    except RecoveryError as error:
        print("refused:", error)
"""


@pytest.mark.compose
@pytest.mark.parametrize("mounted", [True, False])
def test_worker_in_a_container_shares_its_staging_volume_with_the_tools(docker_engine, stand_ins, image_container, mounted):
    volume = f"{image_container.name}-staging"
    socket = docker_engine.address.removeprefix("unix://")
    argv = ["run", "--rm", "--entrypoint", "python", "--volume", f"{socket}:/var/run/docker.sock"]
    argv += ["--group-add", str(Path(socket).stat().st_gid), "--env", f"SECRET={image_container.password}"]
    argv += ["--volume", f"{volume}:/var/lib/recovery/staging"] if mounted else []
    try:
        said = docker_engine.docker(*argv, stand_ins.recovery(), "-c", WORKER, image_container.name, "/var/lib/recovery/staging")
    finally:
        docker_engine.docker("volume", "rm", "--force", volume)
    if mounted:
        assert said.splitlines()[-1] == f"{user()} toc.dat"
    else:
        assert "lies in this worker's own container" in said


# Nothing is left ----------------------------------------------------------------------------------------------------------


def test_exception_in_the_block_ends_the_tool_and_its_container(runner, opened, image_container):
    with suppress(KeyError), runner.tool(["sh", "-c", "sleep 60 & echo it runs; wait"], output=True) as tool:
        assert tool.stdout.readline() == b"it runs\n"
        assert len(boxes(opened, image_container.id)) == 1
        raise KeyError
    assert boxes(opened, image_container.id) == []
    assert runner.run(["echo", "again"]) == b"again\n"


def test_exception_while_a_tool_prints_more_than_anybody_reads_does_not_hang(runner, monkeypatch):
    def ended(doing):
        found = []

        def run():
            try:
                doing()
            except (KeyError, RecoveryError) as error:
                found.append(error)

        thread = Thread(target=run, daemon=True)
        thread.start()
        thread.join(30)
        return found

    def raising():
        with runner.tool(["yes"], output=True) as tool:
            tool.stdout.read(1)
            time.sleep(0.5)
            raise KeyError

    assert [type(each) for each in ended(raising)] == [KeyError]
    monkeypatch.setattr(tools, "_MOST_OUTPUT", 1000)
    assert "prints more than" in str(ended(partial(runner.run, ["yes"])))


def test_container_that_is_refused_or_not_looked_into_is_gone(runner, opened, image_container, monkeypatch):
    def refuse(*_):
        raise ContainerError("It does not answer.", "Look.")

    monkeypatch.setattr(toolbox.SharedFolder, "seen_in", refuse)
    with pytest.raises(ContainerError, match="does not answer"):
        runner.run(["true"])
    assert boxes(opened, image_container.id) == []


@pytest.mark.parametrize("where", [(tools, "sweep"), (toolbox, "place_of")], ids=["sweep", "place"])
def test_runner_that_is_not_made_leaves_no_folder(engine, image_container, staging, monkeypatch, where):
    def refuse(*_):
        raise ContainerError("It does not answer.", "Look.")

    monkeypatch.setattr(*where, refuse)
    with engine_of(engine) as opened, pytest.raises(ContainerError, match="does not answer"):
        ContainerRunner(opened, opened.container(image_container.reach), staging)
    assert list(staging.iterdir()) == []


def test_removal_that_the_engine_does_not_end_is_an_error(runner, monkeypatch):
    runner.run(["true"])
    wait = runner._engine.client.wait

    def never(container_id, timeout=None, condition=None):
        assert timeout, "it would wait for ever"
        raise requests.ReadTimeout("too long")

    monkeypatch.setattr(runner._engine.client, "wait", never)
    box = runner._box(None)
    with pytest.raises(ContainerError, match="Removing the container"):
        box.close()
    monkeypatch.setattr(runner._engine.client, "wait", wait)


def test_children_left_by_a_tool_end_with_the_tool(runner, opened, image_container):
    with runner.tool(["sh", "-c", "sleep 600 & echo it runs"], output=True) as tool:
        assert tool.stdout.readline() == b"it runs\n"
    (box,) = boxes(opened, image_container.id)
    wait_for(lambda: "sleep" not in json.dumps(opened.client.top(box["Id"])))


def test_kill_of_the_task_leaves_no_container(engine, opened, image_container, staging):
    code = """
        import os, signal, sys
        from pathlib import Path
        from recovery.plan.docker import DockerContainer
        from recovery.runners.docker.tools import ContainerRunner
        from tests.support.containers import engine_of
        engine, name, staging = sys.argv[1:]
        opened = engine_of(engine)
        runner = ContainerRunner(opened, opened.container(DockerContainer(container=name)), Path(staging))
        with runner.tool(["sh", "-c", "echo it runs; exec sleep 600"], output=True) as tool:
            print(tool.stdout.readline().decode(), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_python(code, engine, image_container.name, staging)
    assert done.stdout.startswith("it runs")
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: boxes(opened, image_container.id) == [])


def test_container_whose_maker_was_killed_between_its_making_and_its_start_is_swept(runner, engine, opened, image_container, staging):
    def left(folder, name="recovery-tools-"):
        host = opened.client.create_host_config(network_mode=f"container:{image_container.id}")
        labels = {toolbox._LABEL: str(folder)}
        name = f"{name}{staging.name}-{secrets.token_hex(4)}"
        return opened.client.create_container(image_container.image, labels=labels, host_config=host, name=name)["Id"]

    of_a_killed, of_another_staging = left(staging / ".tools-gone"), left(staging / "other" / ".tools-gone")
    of_one_that_works = left(runner.scratch)
    of_an_image_with_the_label = left(staging / ".tools-gone", "shop-")
    try:
        again = engine_of(engine)
        ContainerRunner(again, again.container(image_container.reach), staging).close()
        assert {each["Id"] for each in boxes(opened, image_container.id)} == {
            of_another_staging,
            of_one_that_works,
            of_an_image_with_the_label,
        }
    finally:
        for each in (of_a_killed, of_another_staging, of_one_that_works, of_an_image_with_the_label):
            with suppress(Exception):
                opened.client.remove_container(each, force=True)


# Cuts ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [pytest.param(50, marks=pytest.mark.long, id="fifty"), pytest.param(10, id="ten")])
def test_dump_whose_streams_are_cut_fails_or_is_whole(engine, image_container, tmp_path, staging, times):
    with CuttingProxy(engine, staging) as proxy:
        reached = Reached(f"unix://{proxy.socket}", staging)
        site = ReachedSite(image_container, tmp_path, reached, ("reach",))
        site.create("reach", *SHOP, "CREATE TABLE long AS SELECT n, repeat(md5(n::text), 30) AS text FROM generate_series(1, 3000) n")
        expected = contents(site.back_up(site.source("reach", schema_sql=True)), "reach", "table")

        def whole(set_folder):
            assert contents(set_folder, "reach", "table") == expected

        try:
            assert cut_at_random(proxy, reached, times, lambda: site.back_up(site.source("reach", schema_sql=True)), whole)
        finally:
            reached.ways.close()
            site.clean()


@pytest.mark.parametrize("kept", [0, 5, 100])
def test_output_that_ends_early_without_a_sign_is_an_error(runner, monkeypatch, kept):
    """The Engine may end a stream between two pieces, and say that the command ended well."""
    pieces = stream.Stream.pieces

    async def cut(self):
        left = kept
        async for number, piece in pieces(self):
            if number == 1:
                piece, left = piece[:left], left - len(piece[:left])
            yield number, piece
            if not left:
                return

    assert runner.run(["echo", "whole"]) == b"whole\n"
    monkeypatch.setattr(stream.Stream, "pieces", cut)
    with pytest.raises(ToolError, match="its output was cut"):
        runner.run(["sh", "-c", "printf %0200d 1"])


def test_end_is_found_whatever_pieces_it_comes_in_and_whatever_a_child_prints_after_it():
    mark = "0123456789abcdef" * 2
    said = b"a\1b\1" + mark.encode() + b"c\1\1"
    printed = said + f"\1{mark} 007.".encode() + b"late" * 100
    for size in (1, 2, 7, 39, 1000):
        end = tools._Ended(mark)
        found = b"".join(end.piece(printed[start : start + size]) for start in range(0, len(printed), size))
        assert (found, end.status) == (said, 7)
        assert len(end._held) == tools._END


def test_exit_status_that_is_no_signal_is_told_as_it_is(runner):
    with pytest.raises(ToolError, match="exit status 255"):
        runner.run(["sh", "-c", "exit 255"])
