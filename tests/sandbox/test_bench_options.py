"""`make bench` with --profile and with --against."""

import json
import os
import shutil
import signal
import subprocess
import sys
import types

import pytest

from sandbox.bench import __main__ as bench
from sandbox.bench import against
from sandbox.bench.profile_table import FUNCTIONS
from sandbox.bench.profiled import OTHERS, OWN, WORKER
from sandbox.bench.tables import table
from sandbox.bench.tasks import PROJECT

SOURCES = ("postgres.main", "mongo.documents")
BACKUP = {*(f"{step} {source}" for source in SOURCES for step in ("dump", "compress", "verify")), "upload both"}
RESTORE = {f"{step} {source}" for source in SOURCES for step in ("stage", "verify_staged")}
COMPRESS = "def compress(work: Work) -> None:\n"
SLOWER = "    deadline = time.process_time() + 2\n    while time.process_time() < deadline:\n        pass\n"


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def worktrees(folder):
    return git(folder, "worktree", "list", "--porcelain").count("worktree ")


@pytest.fixture(scope="module")
def profile(server_folder):
    return bench.profiled(server_folder / "profile", scale=0.01)


@pytest.fixture(scope="module")
def repository(server_folder):
    """This tree with a history of its own: a commit without steps, one whose ``compress`` is slower by two core-seconds, and this tree."""
    folder = server_folder / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    author = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    git(folder, *author, "commit", "--quiet", "--allow-empty", "--message", "nothing")
    for name in ("include", "sandbox", "dags"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    steps = folder / "include/recovery/backup/steps.py"
    text = steps.read_text()
    assert text.count(COMPRESS) == 1
    steps.write_text(text.replace(COMPRESS, COMPRESS + SLOWER))
    git(folder, "add", "--all")
    git(folder, *author, "commit", "--quiet", "--message", "slower")
    steps.write_text(text)
    git(folder, *author, "commit", "--quiet", "--all", "--message", "this")
    return folder


@pytest.fixture
def in_repository(repository, monkeypatch):
    monkeypatch.setattr(against, "PROJECT", repository)
    return repository


def test_profile_has_every_step_and_no_other(profile):
    assert profile["profile"].keys() == BACKUP | RESTORE


def test_processes_of_a_profiled_step_sum_up_to_its_core_seconds(profile):
    """The sum is that of getrusage(2), and of the server's tree; so no child is lost, however short its life was."""
    for title, step in profile["profile"].items():
        assert sum(step["processes"].values()) == pytest.approx(step["core_seconds"], abs=0.02), title
        assert OTHERS not in step["processes"], title


def test_functions_of_a_profiled_python_process_sum_up_to_its_core_seconds(profile):
    for title, step in profile["profile"].items():
        for process, functions in step["functions"].items():
            assert sum(functions.values()) == pytest.approx(step["processes"][process], abs=0.05), title
            assert all(used > -0.01 for used in functions.values()), title


def test_profile_names_client_tools_servers_and_own_processes(profile):
    programs = {title: set(step["processes"]) for title, step in profile["profile"].items()}
    assert programs["dump postgres.main"] >= {"PostgreSQL server", "pg_dump", OWN}
    assert programs["dump mongo.documents"] == {"MongoDB server", OWN}
    assert programs["verify mongo.documents"] == {"MongoDB server", WORKER, OWN}
    assert programs["stage postgres.main"] >= {"PostgreSQL server", "pg_restore", "tar", WORKER, OWN}
    assert programs["stage mongo.documents"] >= {"MongoDB server", "mongorestore", "tar", WORKER, OWN}
    assert programs["upload both"] == {OWN}


def test_profile_counts_sessions_of_the_server_that_have_ended(profile):
    step = profile["profile"]["dump postgres.main"]
    assert step["processes"]["PostgreSQL server"] > 0.03


def test_profile_prints_a_table_for_each_source(profile):
    read = json.loads(json.dumps(profile | {"seconds": 1.0}))
    lines = table(read).splitlines()
    heads = [line.split() for line in lines if line.startswith("core-s of ")]
    assert [head[2] for head in heads] == [*SOURCES, "both"]
    assert heads[0][3:] == ["dump", "compress", "verify", "stage", "verify_staged", "all"]
    (pg_dump,) = (line.split() for line in lines if line.startswith("pg_dump "))
    assert float(pg_dump[1]) == pytest.approx(profile["profile"]["dump postgres.main"]["processes"]["pg_dump"], abs=0.006)


def functions_of(code):
    yield code.co_qualname.replace("<locals>.", "")
    for inner in code.co_consts:
        if isinstance(inner, types.CodeType):
            yield from functions_of(inner)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_with_words_of_its_own_exists(name):
    module, _, function = name.partition(":")
    path = PROJECT / "include/recovery" / f"{module.replace('.', '/')}.py"
    assert function in functions_of(compile(path.read_text(), path, "exec"))


def test_compared_commit_shows_what_its_change_costs(in_repository, server_folder):
    results = bench.compared(server_folder / "compared", scale=0.002, rounds=1, commit="HEAD~1")
    assert results["trees"]["this"].endswith(" this")
    assert results["trees"]["other"].endswith(" slower")
    assert results["against"]["backup"].keys() == BACKUP | {against.WHOLE}
    assert results["against"]["restore"].keys() == RESTORE | {against.WHOLE}
    compress = results["against"]["backup"]["compress postgres.main"]
    assert compress["other"]["cpu_seconds"] > compress["this"]["cpu_seconds"] + 1.5
    assert worktrees(in_repository) == 1
    lines = table(json.loads(json.dumps(results | {"seconds": 1.0}))).splitlines()
    assert any(line.startswith("other: ") and line.endswith("slower") for line in lines)
    (row,) = (line.split() for line in lines if line.startswith("compress postgres.main"))
    assert float(row[-1]) == pytest.approx(compress["this"]["cpu_seconds"] / compress["other"]["cpu_seconds"], abs=0.01)


def test_description_of_this_tree_names_uncommitted_changes(in_repository):
    assert against.describe().endswith(" this")
    (in_repository / "new").touch()
    try:
        assert against.describe().endswith(" this, with changes that are not committed")
        assert against.describe("HEAD").endswith(" this")
    finally:
        (in_repository / "new").unlink()


def test_worktree_is_removed_after_an_error(in_repository, tmp_path):
    with pytest.raises(KeyError), against.checked_out("HEAD~1", tmp_path / "other") as other:
        assert SLOWER in (other / "include/recovery/backup/steps.py").read_text()
        assert worktrees(in_repository) == 2
        (other / "untracked").touch()
        raise KeyError
    assert worktrees(in_repository) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("commit", "words"), [("nowhere", "there is no such commit"), ("HEAD~2", "Name a later commit")])
def test_commit_without_steps_is_refused_before_any_server_starts(in_repository, commit, words, capsys):
    assert bench.main("--against", commit) == 2
    assert words in capsys.readouterr().err
    assert worktrees(in_repository) == 1


def test_interrupted_comparison_leaves_no_worktree_and_no_folder(repository, server_folder):
    """Ctrl-C reaches every process of the terminal's foreground, at a moment when the worktree is there.

    The server may not hear of it if it has not begun with the statement that makes the data; so that is little.
    """
    folder = server_folder / "interrupted"
    folder.mkdir()
    for path in (server_folder, folder):
        path.chmod(0o711)  # a server that refuses root runs as nobody
    paths = os.pathsep.join([str(repository / "include"), str(repository)])
    process = subprocess.Popen(
        [sys.executable, "-m", "sandbox.bench", "--against", "HEAD~1"],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder), "BENCH_SCALE": "0.1"},
        stdout=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    try:
        assert process.stdout.readline() == "Making the data\n"
        assert worktrees(repository) == 2
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=120)[0] == "\nstopped\n"
    finally:
        process.kill()
    assert process.wait() == 130
    assert worktrees(repository) == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", [["--profile"], ["--against", "HEAD"]])
def test_part_without_steps_is_refused(option, capsys):
    assert bench.main("memory", *option) == 2
    assert "There is no part memory; there are backup, restore." in capsys.readouterr().err


def test_profile_of_two_commits_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        bench.main("--profile", "--against", "HEAD")
    assert ended.value.code == 2
    assert "not allowed with" in capsys.readouterr().err
