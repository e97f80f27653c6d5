import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import setup

PROJECT = Path(__file__).parent.parent.parent


def run_setup(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of setup.py that lies in a folder of its own, with nothing but what is given on PATH."""
    (folder / "tools").mkdir(exist_ok=True)
    copy = folder / "tools" / "setup.py"
    shutil.copy(PROJECT / "tools" / "setup.py", copy)
    environ = {"PATH": str(folder / "bin"), "HOME": str(folder), **environ}
    return subprocess.run([sys.executable, copy, *arguments], env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("lock", ["requirements.txt", "requirements-dev.txt"])
def test_a_lock_file_holds_pins_and_nothing_of_the_machine_that_made_it(lock):
    lines = (PROJECT / lock).read_text().splitlines()
    pins = [line for line in lines if not line.lstrip().startswith("#")]
    assert len(pins) > 20
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9.\[\]_-]+==[\w.+!-]+( ; .+)?", pin), pin
    assert not re.search(r"://|/opt|/root|/home|/work|find-links|index-url", "\n".join(lines))


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_every_chosen_package_has_a_reason_and_is_pinned(name):
    chosen = [line for line in (PROJECT / f"{name}.in").read_text().splitlines() if line and not line.startswith(("#", "-c"))]
    pinned = {line.partition("==")[0] for line in (PROJECT / f"{name}.txt").read_text().splitlines()}
    for line in chosen:
        requirement, hash_sign, reason = line.partition("#")
        assert hash_sign, f"{line}: no reason"
        assert reason.strip(), f"{line}: no reason"
        assert re.split(r"[\[=<>! ]", requirement)[0].lower() in pinned, f"{line}: run make lock"


def test_uv_is_the_pinned_one():
    said = subprocess.run([setup.BIN / "uv", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split()[:2] == setup.locked("uv").split("==")


def test_a_missing_program_is_named_with_the_command_that_installs_it(tmp_path):
    done = run_setup(tmp_path, "programs", "age", "chromium")
    assert done.returncode == 1
    assert "apt-get install age chromium" in done.stderr


def test_programs_that_are_there_need_nothing(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("age", "google-chrome"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = run_setup(tmp_path, "programs", "age", "chromium")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_python_that_can_make_no_environment_is_explained(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\n[ "$1" = -c ] && { echo 3 12; exit; }\necho "ensurepip is not available"; exit 1\n')
    fake.chmod(0o755)
    done = run_setup(tmp_path, PYTHON=str(fake))
    assert done.returncode == 1
    assert "ensurepip is not available" in done.stderr
    assert "python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_no_usable_python_is_said_with_the_versions_that_are(monkeypatch):
    monkeypatch.setattr(setup, "usable", lambda python: False)
    with pytest.raises(setup.SetupError, match=r"needs Python 3\.11, 3\.12, 3\.13"):
        setup.find_python()


@pytest.mark.parametrize(("says", "version"), [("go1.26.8", (1, 26)), ("go1.9", (1, 9)), ("devel +abc", (0,)), ("", (0,))])
def test_the_version_of_go(tmp_path, says, version):
    fake = tmp_path / "go"
    fake.write_text(f"#!/bin/sh\necho '{says}'\n")
    fake.chmod(0o755)
    assert setup.go_version(str(fake)) == version


def test_caches_go_below_the_project_where_home_is_not_writable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "GOPATH" not in setup.go_environment()
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert setup.go_environment()["GOPATH"].startswith(str(PROJECT))


def test_the_mongo_tools_say_the_version_that_is_pinned():
    tool = setup.VENV / "mongo-tools" / "mongodump"
    if not tool.exists():
        assert all(shutil.which(name) for name in setup.MONGO_TOOLS), "neither built nor on PATH"
        return
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True, env=os.environ).stdout
    assert setup.pinned_version() in said


def test_make_help_names_every_target():
    said = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"make ([a-z-]+)", said) == ["help", "demo", "test", "test-quick", "test-long", "bench", "lint", "lock", "clean"]
