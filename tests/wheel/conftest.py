"""The wheel, built from this tree and installed with pip's rules into an empty environment, beside a plain Airflow."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent.parent
_UV = Path(sys.executable).with_name("uv")
_OURS = ("AIRFLOW", "_AIRFLOW", "RECOVERY", "PYTHON")


def clean():
    """The environment of somebody who knows nothing of this tree."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_OURS)}


@dataclass
class Installed:
    """An environment with the wheel, and what a person does in it.

    Args:
        bin: its folder of programs.
        home: of Airflow and the person; the DAG folder is in it.
    """

    bin: Path
    home: Path

    def try_to(self, program, *arguments, **environment):
        """Run one of its programs; its output is text."""
        settings = {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.home / "dags"),
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        }
        command = [self.bin / program, *map(str, arguments)]
        return subprocess.run(command, env=clean() | settings | environment, cwd=self.home, capture_output=True, text=True, check=False)

    def run(self, program, *arguments, **environment):
        """What a program of it prints; it must succeed."""
        done = self.try_to(program, *arguments, **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def python(self, code, **environment):
        """What a piece of Python prints last."""
        return self.run("python", "-c", code, **environment).splitlines()[-1]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel, made from the source distribution, and so from nothing that this does not have."""
    built = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", built, PROJECT]
    done = subprocess.run(command, env=clean(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = built.glob("*.whl")
    return made


def install(wheel, folder, extras=""):
    """A new environment with the wheel: what it needs comes in the versions of the lock, which uv links from its cache."""
    python = folder / "venv/bin/python"
    subprocess.run([_UV, "venv", "--quiet", "--python", sys.executable, python.parent.parent], env=clean(), check=True)
    locked = ["--constraint", PROJECT / "requirements.txt", f"openmanus-recovery{extras} @ {wheel.as_uri()}"]
    command = [_UV, "pip", "install", "--quiet", "--python", python, *locked]
    if subprocess.run([*command, "--offline"], env=clean(), capture_output=True, check=False).returncode:
        subprocess.run(command, env=clean(), check=True)
    home = folder / "home"
    (home / "dags").mkdir(parents=True)
    return Installed(python.parent, home)


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The wheel without extras."""
    return install(wheel, tmp_path_factory.mktemp("installed"))


@pytest.fixture(scope="session")
def installed_with_docker(wheel, tmp_path_factory):
    """The wheel with the extra ``docker``."""
    return install(wheel, tmp_path_factory.mktemp("installed"), "[docker]")
