"""docker-compose.yaml, started: Airflow with its workers, and the sample system that it protects."""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg
from pymongo import MongoClient

from sandbox import fingerprints, sample
from sandbox.containers.engine import Engine
from sandbox.containers.errors import EngineError
from sandbox.containers.stand_ins import user
from sandbox.fingerprints import Fingerprints
from sandbox.person import Person
from sandbox.servers import free_port

PROJECT = Path(__file__).parent.parent.parent
_PASSWORDS = [f"{name}_PASSWORD" for name in ("METADATA", "REDIS", "ADMIN", "OPERATOR", "ALICE", "BOB", "SAMPLE")]


class Stack:
    """The services of docker-compose.yaml with the profile ``sample``, as a project of its own.

    Args:
        engine: where they run.
        compose: the command of Docker Compose.
        folder: everything of it on this machine is here: ``.env``, OpenManus's files, backups.
        images: what to put in place of the images, by the variables of ``.env.example``, and built already; without any, the
            project's own image is built, with a tag that :meth:`stop` removes, and the others are pulled.
        settings: more variables of ``.env``.
        environment: Airflow's settings, over those of the file: what makes it quick in a test.
    """

    def __init__(
        self,
        engine: Engine,
        compose: Sequence[str | Path],
        folder: Path,
        images: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.project = f"recovery-{secrets.token_hex(4)}"
        self.home = folder / "openmanus"
        self.storage = self.home / "storage"
        self.backups = folder / "backups"
        self.kit = folder / "kit"
        self.plans = folder / "plans"
        self.port = free_port()
        self.secrets = {name: secrets.token_hex(16) for name in (*_PASSWORDS, "API_SECRET_KEY", "JWT_SECRET")}
        self.secrets["FERNET_KEY"] = base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
        self._compose = list(compose)
        self._own_image = "" if images else f"openmanus-recovery-sandbox:{self.project}"
        self._images = dict(images or {"RECOVERY_IMAGE": self._own_image})
        self._settings = dict(settings or {})
        self._environment = dict(environment or {})
        self._people: dict[str, Person] = {}
        self._recipient = ""
        self.user = user()
        """Whom Airflow runs as, and whom the sample's files belong to."""
        self.private_keys: dict[str, str] = {}
        """The backup's identity, and the key that signs, by their Connections' ids."""

    @property
    def url(self) -> str:
        """Address of the UI and the API."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Make keys, start everything, and wait until all is healthy.

        Raises:
            EngineError: if something does not become healthy; with its last words.
        """
        try:
            self._prepare()
            self.compose("up", "--detach", "--wait", "--no-build")
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Remove its containers, networks and volumes, and the image that was built for it."""
        for person in self._people.values():
            person.close()
        self._people.clear()
        self.compose("down", "--volumes", "--timeout", "5", check=False)
        if self._own_image and self.engine.docker("images", "--quiet", self._own_image):
            self.engine.docker("image", "rm", "--force", self._own_image)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def compose(self, *arguments: str | Path, check: bool = True, stdin: bytes | None = None) -> str:
        """Run Docker Compose on this project, and return what it printed.

        Raises:
            EngineError: if it fails; with the end of what it said.
        """
        files = [PROJECT / "docker-compose.yaml", self.folder / "override.yaml"]
        given = ["--project-name", self.project, "--env-file", self.folder / ".env", "--profile", "sample"]
        argv = [*self._compose, "--progress", "plain", *given, *(part for file in files for part in ("--file", file)), *arguments]
        inherited = {name: value for name, value in self.engine.environment().items() if name not in self._variables()}
        done = subprocess.run([str(part) for part in argv], input=stdin, capture_output=True, check=False, env=inherited)
        if check and done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise EngineError(f"docker compose {arguments[0]} failed with exit status {done.returncode}:\n{said[-4000:]}")
        return done.stdout.decode(errors="replace")

    def container(self, service: str, number: int = 1) -> str:
        """The name of a service's container."""
        return f"{self.project}-{service}-{number}"

    def containers(self) -> list[str]:
        """The names of all its containers."""
        return self.engine.docker("ps", "--all", "--format", "{{.Names}}", "--filter", f"name=^{self.project}-").split()

    def id_of(self, container: str) -> str:
        """A container's id, of which the first twelve digits are its host name."""
        return self.engine.docker("inspect", "--format", "{{.Id}}", container).strip()

    def wait_answers(self, timeout: float = 60) -> None:
        """Wait until the API server answers again.

        Raises:
            TimeoutError: if it does not in time.
        """
        deadline = time.monotonic() + timeout
        while True:
            with suppress(httpx.HTTPError):
                answer = httpx.get(f"{self.url}/api/v2/monitor/health", trust_env=False)
                if answer.is_success and answer.json()["metadatabase"]["status"] == "healthy":
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the API server did not answer within {timeout:.0f} s")
            time.sleep(0.5)

    def address(self, service: str) -> str:
        """The address of a service's container, where this machine reaches it."""
        found = json.loads(self.engine.docker("inspect", self.container(service)))
        networks: dict[str, Any] = found[0]["NetworkSettings"]["Networks"]
        return str(next(iter(networks.values()))["IPAddress"])

    def person(self, name: str) -> Person:
        """Somebody logged in: ``admin``, ``operator``, ``alice`` or ``bob``."""
        if name not in self._people:
            self._people[name] = Person(self.url, name, self.secrets[f"{name.upper()}_PASSWORD"])
        return self._people[name]

    def connect(self, database: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
        """A connection to the sample's PostgreSQL server, as its superuser."""
        password = self.secrets["SAMPLE_PASSWORD"]
        return psycopg.connect(host=self.address("sample-postgres"), user="postgres", password=password, dbname=database, autocommit=True)

    def client(self) -> MongoClient[dict[str, Any]]:
        """A client of the sample's MongoDB server, as its root user."""
        password = self.secrets["SAMPLE_PASSWORD"]
        return MongoClient(self.address("sample-mongo"), username="root", password=password, authSource="admin", directConnection=True)

    def fingerprint(self) -> dict[str, Fingerprints]:
        """What the sample holds, by source, found out independently of the code under test."""
        return {
            "postgres.main": fingerprints.postgres(self),
            "mongo.documents": fingerprints.mongo(self),
            "files.uploads": fingerprints.files(self.storage),
            "config": fingerprints.config(self.home),
        }

    def disaster(self) -> None:
        """Drop the database and the collections, delete the uploads and ``.env``."""
        sample.disaster(postgres=self, mongo=self, files=self.storage, config=self.home)

    def _prepare(self) -> None:
        """Make folders and keys, and write ``.env``."""
        for folder in (self.home, self.storage, self.backups):
            folder.mkdir(parents=True)
            if self.user != os.getuid():
                os.chown(folder, self.user, 0)
        self.kit.mkdir(mode=0o700)
        self.write_plan()  # before the first container: Docker makes folders that are missing, and they are root's
        self._write_settings()
        if self._own_image:
            self.compose("build", "init")
        self._run_documented(f"{self.kit}:/kit", "recovery", "keys", "create", "--out", "/kit/openmanus", "--id-prefix", "openmanus")
        made: dict[str, dict[str, str]] = json.loads((self.kit / "openmanus" / "connections.json").read_text())
        self.private_keys = {name: fields["password"] for name, fields in made.items()}
        comment = next(line for line in (self.kit / "openmanus" / "identity.txt").read_text().splitlines() if "age1" in line)
        self._recipient = comment.split()[-1]
        self._write_settings()

    def _write_settings(self) -> None:
        (self.folder / ".env").touch(0o600)
        (self.folder / ".env").write_text("".join(f"{name}={value}\n" for name, value in self._variables().items()))
        lines = "".join(f"      {name}: {json.dumps(value)}\n" for name, value in self._environment.items())
        airflow = ("init", "api-server", "scheduler", "dag-processor", "triggerer", "worker", "drill-worker")
        override = "services:\n" + "".join(f"  {name}:\n    environment:\n{lines}" for name in airflow)
        (self.folder / "override.yaml").write_text(override if lines else "services: {}\n")

    def write_plan(self, edit: Callable[[str], str] = str) -> None:
        """Write the plan that ships, without a schedule; ``edit`` changes its text."""
        shipped = (PROJECT / "include" / "plans" / "openmanus.yaml").read_text()
        self.plans.mkdir(exist_ok=True)
        (self.plans / "openmanus.yaml").write_text(edit(shipped.replace('schedule: "0 1 * * *"', "schedule: null")))

    def _variables(self) -> dict[str, str]:
        return {
            **self.secrets,
            **self._images,
            "OPENMANUS_RECIPIENT": self._recipient,
            "OPENMANUS_HOME": str(self.home),
            "OPENMANUS_FILES": str(self.storage),
            "PLANS": str(self.plans),
            "BACKUPS": str(self.backups),
            "UI_ADDRESS": f"127.0.0.1:{self.port}",
            "BASE_URL": self.url,
            "RECOVERY_UID": str(self.user),
            **self._settings,
        }

    def import_connections(self) -> None:
        """Give Airflow the keys and the sample's Connections, from files, as the documentation says."""
        file = self.kit / "openmanus" / "connections.json"
        self._import(file)
        known = (PROJECT / "tools" / "compose" / "sample-connections.json").read_text()
        file.touch(0o600)
        file.write_text(known.replace("<SAMPLE_PASSWORD>", self.secrets["SAMPLE_PASSWORD"]))
        self._import(file)

    def _import(self, file: Path) -> None:
        self._run_documented(f"{file.parent}:/kit:ro", "airflow", "connections", "import", "/kit/connections.json")
        file.unlink()

    def _run_documented(self, volume: str, program: str, *arguments: str) -> None:
        """Run a program in a container, with the command of docs/deployment.md."""
        given = ["--rm", "--no-deps", "--user", f"{os.getuid()}:0", "--volume", volume, "--entrypoint", program]
        self.compose("run", *given, "init", *arguments)
