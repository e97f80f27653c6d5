"""The command ``recovery``, as it is installed: run where somebody may have planted what Python or a shell looks for."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest

from tests.support.processes import RECOVERY, plant
from tests.support.system import SampleSystem
from tools import install


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A system of files and settings, and one set of it."""
    system = SampleSystem(tmp_path_factory.mktemp("planted") / "small", "planted")
    system.set_id = system.back_up()
    return system


def run(folder, *arguments, **environ):
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)} | environ
    return subprocess.run([RECOVERY, *map(str, arguments)], cwd=folder, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", [None, "", ":", ".", "/usr/lib:"])
def test_recovery_in_a_folder_with_planted_modules_and_programs_runs_none_of_them(made, tmp_path, path):
    """Every module that Python could look for is there under its name, in the set's folder, and so is the home of the user."""
    (folder,) = made.set_folders(made.set_id)[:1]
    place = tmp_path / "planted" / made.set_id
    place.parent.mkdir()
    subprocess.run(["cp", "-a", folder, place], check=True)
    marker = tmp_path / "imported"
    plant(place, marker)
    site = place / ".local" / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    plant(site, marker)
    environ = {} if path is None else {"PYTHONPATH": path}
    environ["PATH"] = f".::{os.environ['PATH']}:."
    public, whole = ["--public-key", made.keys.folder / "public.pem"], ["--identity", made.keys.folder / "identity.txt"]
    for command, more in (("sets", []), ("show", whole), ("verify", whole)):
        done = run(place, command, ".", *public, *more, **environ)
        assert done.returncode == 0, done.stderr
        assert made.set_id in done.stdout
    assert not marker.exists(), marker.read_text()


def test_planted_modules_are_imported_without_isolation(tmp_path):
    """Or the test above could not fail."""
    marker = tmp_path / "imported"
    folder = tmp_path / "folder"
    folder.mkdir()
    plant(folder, marker)
    subprocess.run([sys.executable, "-m", "recovery", "--version"], cwd=folder, capture_output=True, check=False)
    assert marker.read_text()


def test_python_m_recovery_refuses_to_run_without_isolation():
    done = subprocess.run([sys.executable, "-m", "recovery", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Run the command recovery instead" in done.stderr


def test_recovery_passes_arguments_and_exit_status_through(tmp_path):
    assert run(tmp_path, "--version").stdout.strip() == importlib.import_module("recovery").VERSION
    assert run(tmp_path, "plans", "check", "no such folder").returncode == 2
    assert "There is no plan folder no such folder." in run(tmp_path, "plans", "check", "no such folder").stderr


def test_install_leads_python_to_the_package_from_a_folder_with_a_space(tmp_path, monkeypatch):
    places = {"purelib": tmp_path / "site packages", "scripts": tmp_path / "the bin"}
    for place in places.values():
        place.mkdir()
    python = places["scripts"] / "a python"
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(places[name]))
    monkeypatch.setattr(sys, "executable", str(python))
    install.main()
    assert Path((places["purelib"] / "recovery.pth").read_text().strip(), "recovery", "__main__.py").exists()
    install.main()  # again, over what is there
    monkeypatch.undo()
    (found,) = importlib.metadata.distributions(path=[str(places["purelib"])])
    project = tomllib.loads((install.ROOT / "pyproject.toml").read_text())["project"]
    assert (found.name, found.version) == (project["name"], importlib.import_module("recovery").VERSION)
    told = {(point.group, point.name, point.value) for point in found.entry_points}
    assert told == {(group, *point) for group, points in project["entry-points"].items() for point in points.items()}
    text = (places["scripts"] / "recovery").read_text()
    assert re.search(r"^exec '.*the bin/a python' -I -m recovery \"\$@\"$", text, re.MULTILINE)
    assert os.access(places["scripts"] / "recovery", os.X_OK)
