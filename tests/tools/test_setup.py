import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.containers.__main__ import NOT_POSSIBLE
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
def test_lock_file_has_only_pins_and_no_local_paths(lock):
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


def test_uv_has_the_pinned_version():
    said = subprocess.run([setup.BIN / "uv", "--version"], capture_output=True, text=True, check=True).stdout
    assert said.split()[:2] == setup.locked("uv").split("==")


def test_setup_names_a_missing_program_and_its_install_command(tmp_path):
    done = run_setup(tmp_path, "programs", "age", "chromium")
    assert done.returncode == NOT_POSSIBLE
    assert "apt-get install age chromium" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root installs programs")
def test_setup_whose_installer_fails_has_another_status_than_one_that_may_not_install(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "apt-get").write_text("#!/bin/sh\nexit 100\n")
    (tmp_path / "bin" / "apt-get").chmod(0o755)
    done = run_setup(tmp_path, "programs", "age")
    assert done.returncode == 1
    assert "failed with exit status 100: apt-get" in done.stderr


def test_setup_accepts_installed_programs(tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("age", "google-chrome"):
        (tmp_path / "bin" / name).write_text("#!/bin/sh\n")
        (tmp_path / "bin" / name).chmod(0o755)
    done = run_setup(tmp_path, "programs", "age", "chromium")
    assert (done.returncode, done.stderr) == (0, "")


def test_setup_explains_a_python_without_ensurepip(tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\n[ "$1" = -c ] && { echo 3 12; exit; }\necho "ensurepip is not available"; exit 1\n')
    fake.chmod(0o755)
    done = run_setup(tmp_path, PYTHON=str(fake))
    assert done.returncode == 1
    assert "ensurepip is not available" in done.stderr
    assert "python3-venv" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_setup_without_a_usable_python_names_the_supported_versions(monkeypatch):
    monkeypatch.setattr(setup, "usable", lambda python: False)
    with pytest.raises(setup.SetupError, match=r"needs Python 3\.11, 3\.12, 3\.13"):
        setup.find_python()


@pytest.mark.parametrize(("says", "version"), [("go1.26.8", (1, 26)), ("go1.9", (1, 9)), ("devel +abc", (0,)), ("", (0,))])
def test_go_version_reads_the_output_of_go(tmp_path, says, version):
    fake = tmp_path / "go"
    fake.write_text(f"#!/bin/sh\necho '{says}'\n")
    fake.chmod(0o755)
    assert setup.go_version(str(fake)) == version


def test_go_caches_are_in_the_project_when_home_is_not_writable(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "GOPATH" not in setup.go_environment()
    monkeypatch.setenv("HOME", str(tmp_path / "missing"))
    assert setup.go_environment()["GOPATH"].startswith(str(PROJECT))


def test_mongo_tools_have_the_pinned_version():
    tool = setup.VENV / "mongo-tools" / "mongodump"
    if not tool.exists():
        assert all(shutil.which(name) for name in setup.MONGO_TOOLS), "neither built nor on PATH"
        return
    said = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True, env=os.environ).stdout
    assert setup.pinned_version() in said


def test_make_help_names_every_target():
    said = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^([a-z-]+):(?!=)", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    assert re.findall(r"make ([a-z-]+)", said) == list(dict.fromkeys(targets))
