"""Stand-ins for container images, made from Debian's packages and from the servers of the tests: no registry is needed.

Each is built once, and again only when what it is made of has changed: its tag is a digest of that.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sandbox import toolchain
from sandbox.containers.engine import CACHE, Engine
from sandbox.containers.errors import EngineError

PROJECT = Path(__file__).parent.parent.parent
BASE = "openmanus-recovery-stand-in/python:latest"
"""Debian with Python, once :meth:`StandIns.python` has made it."""
_IMAGES = Path(__file__).parent / "images"
_RELEASE = "bookworm"
_PACKAGES = "ca-certificates,python3,python3-venv,python3-pip"
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
"""This machine's, which may have an authority of its own: downloads in containers then need it, too."""
_FOR_ROOT = 50123
"""Another user than by default, so that it shows whether ``RECOVERY_UID`` is heeded."""
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def user() -> int:
    """Whom Airflow runs as in containers: who starts them, since only root may give files to others."""
    return os.getuid() or _FOR_ROOT


class StandIns:
    """The stand-ins on an Engine, by what they stand for; each is built when it is first asked for."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def python(self) -> str:
        """Debian with its own Python, for ``python:...-slim``; the base of all others."""
        certificates = _CERTIFICATES.read_bytes() if _CERTIFICATES.exists() else b""
        tag = _tag("python", _RELEASE.encode(), _PACKAGES.encode(), certificates)
        if not self._has(tag):
            self._make_base(tag, certificates)
        self._engine.docker("tag", tag, BASE)
        return tag

    def _make_base(self, tag: str, certificates: bytes) -> None:
        with tempfile.TemporaryDirectory(prefix="recovery-image-") as folder:
            root = Path(folder) / "root"
            _quiet("debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _RELEASE, root)
            if certificates:
                (root / _CERTIFICATES.relative_to("/")).write_bytes(certificates)
            (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            for rest in ("var/cache/apt/archives", "var/lib/apt/lists"):
                shutil.rmtree(root / rest, ignore_errors=True)
            settings = [f"PATH={_PATH}", *(f"{name}={_CERTIFICATES}" for name in ("PIP_CERT", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"))]
            changes = [part for setting in settings for part in ("--change", f"ENV {setting}")]
            archive = Path(folder) / "root.tar"
            _quiet("tar", "--create", f"--file={archive}", f"--directory={root}", ".")
            self._engine.docker("import", *changes, archive, tag)

    def go(self) -> str:
        """Go, for ``golang:...``."""
        root = Path(subprocess.run([toolchain.go(), "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip())
        return self._build("go", {"go": root}, (root / "VERSION").read_bytes())

    def postgres(self) -> str:
        """PostgreSQL 15 of Debian, for ``postgres:...``."""
        return self._build("postgres", {})

    def redis(self) -> str:
        """Redis of Debian, for ``redis:...``."""
        return self._build("redis", {})

    def mongo(self) -> str:
        """MongoDB as the tests have it, with the official shell, for ``mongo:...``."""
        return self._build("mongo", {"mongod": toolchain.mongod()})

    def s3(self) -> str:
        """SeaweedFS as the tests have it, for ``chrislusf/seaweedfs:...``."""
        return self._build("s3", {"weed": Path(sys.executable).parent / "weed"})

    def recovery(self) -> str:
        """The image of the project's Dockerfile, on stand-ins, with Debian's PostgreSQL instead of PostgreSQL's own packages."""
        arguments = {
            "PYTHON_IMAGE": self.python(),
            "GO_IMAGE": self.go(),
            "MONGO_IMAGE": self.mongo(),
            "POSTGRES_PACKAGES": "distribution",
            "POSTGRES_MAJORS": "15",
            "DRILL_POSTGRES_MAJORS": "15",
            "RECOVERY_UID": str(user()),
        }
        tag = f"openmanus-recovery-stand-in/recovery:uid-{user()}"
        given = [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        self._engine.docker("build", "--tag", tag, *given, PROJECT)
        return tag

    def all(self) -> dict[str, str]:
        """Every image of docker-compose.yaml, by the variable of ``.env.example`` that names it."""
        return {
            "RECOVERY_IMAGE": self.recovery(),
            "POSTGRES_IMAGE": self.postgres(),
            "REDIS_IMAGE": self.redis(),
            "MONGO_IMAGE": self.mongo(),
            "S3_IMAGE": self.s3(),
        }

    def _build(self, name: str, parts: Mapping[str, Path], version: bytes = b"") -> str:
        base = self.python()
        sources = sorted((_IMAGES / name).iterdir())
        sizes = [f"{part} {path.stat().st_size}".encode() for part, path in parts.items() if path.is_file()]
        tag = _tag(name, base.encode(), version, *(path.read_bytes() for path in sources), *sizes)
        if not self._has(tag):
            with tempfile.TemporaryDirectory(prefix="recovery-image-") as folder:
                for path in sources:
                    shutil.copy(path, folder)
                for part, path in parts.items():
                    if path.is_dir():
                        shutil.copytree(path, Path(folder) / part, symlinks=True)
                    else:
                        shutil.copy(path, Path(folder) / part)
                self._engine.docker("build", "--tag", tag, "--build-arg", f"BASE={base}", folder)
        return tag

    def _has(self, tag: str) -> bool:
        return bool(self._engine.docker("images", "--quiet", tag).strip())


def compose_program() -> Path:
    """Docker Compose, built from its Go module, since Debian has none of version 2; kept in the cache.

    Raises:
        EngineError: if it can't be built.
    """
    module = PROJECT / "tools" / "docker-compose"
    inputs = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(module.iterdir()))).hexdigest()[:12]
    program = CACHE / f"docker-compose-{inputs}"
    if not program.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = program.with_suffix(".new")
        environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly", "GOTOOLCHAIN": "local", "GOWORK": "off"}
        argv = [toolchain.go(), "build", "-trimpath", "-ldflags=-s -w", "-o", made, "github.com/docker/compose/v2/cmd"]
        done = subprocess.run([str(part) for part in argv], cwd=module, env=environment, capture_output=True, check=False, text=True)
        if done.returncode:
            raise EngineError(f"Docker Compose could not be built:\n{done.stderr[-2000:]}")
        made.replace(program)
    return program


def _tag(name: str, *parts: bytes) -> str:
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:12]
    return f"openmanus-recovery-stand-in/{name}:{digest}"


def _quiet(*argv: str | Path) -> None:
    done = subprocess.run([str(part) for part in argv], capture_output=True, check=False, text=True)
    if done.returncode:
        raise EngineError(f"{argv[0]} failed with exit status {done.returncode}:\n{(done.stdout + done.stderr)[-2000:]}")
