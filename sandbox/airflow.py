"""A real Airflow: API server, scheduler, DAG processor and triggerer on free ports, with users who have passwords."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from sandbox import toolchain
from sandbox.person import Person
from sandbox.servers import Postgres, free_port

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROJECT = Path(__file__).parent.parent

USERS = {"operator": "user", "alice": "user", "bob": "user", "carol": "viewer"}
"""Who can log in by default, and the role of each: viewer, user, op or admin. There is always an ``admin`` too."""

_PROGRAM = Path(sys.executable).parent / "airflow"

_COMPONENTS = {
    "api-server": ["api-server"],
    "scheduler": ["scheduler", "--skip-serve-logs"],
    "dag-processor": ["dag-processor"],
    "triggerer": ["triggerer", "--skip-serve-logs"],
}

_SETTINGS = {
    "core.executor": "LocalExecutor",
    "core.parallelism": "8",
    "core.load_examples": "False",
    "core.hostname_callable": "socket.gethostname",
    "core.min_serialized_dag_update_interval": "1",
    "dag_processor.parsing_processes": "1",
    "dag_processor.refresh_interval": "5",
    "dag_processor.bundle_refresh_check_interval": "1",
    "scheduler.scheduler_idle_sleep_time": "0.5",
    "scheduler.trigger_timeout_check_interval": "2",
    "workers.min_heartbeat_interval": "2",
    "logging.colored_console_log": "False",
    "api.host": "127.0.0.1",
    "api.workers": "1",
}


class Airflow:
    """Airflow with the project's DAGs and plugins; use it in a ``with`` block, or call :meth:`start` and :meth:`stop`.

    Its metadata is in a PostgreSQL server of its own, as in production: on SQLite, tasks that run side by side get
    sporadic errors from the API.

    Args:
        folder: what Airflow writes (its home); made if need be. The metadata server lies beside it.
        dags: the folder with DAG files.
        connections: Airflow Connections by id, as the keys of Airflow's JSON form (``conn_type``, ``host``, ``extra`` ...).
            They are given by environment, where the REST API can neither see nor change them; for those that a test
            changes use :meth:`sandbox.person.Person.put_connection`.
        users: role by user name, beside ``admin``.
        environment: more variables of every Airflow process, such as ``RECOVERY_PLANS``.
        settings: Airflow settings by ``section.key``, over the ones that make a small machine quick.
    """

    def __init__(
        self,
        folder: Path,
        *,
        dags: Path = PROJECT / "dags",
        connections: Mapping[str, Mapping[str, Any]] | None = None,
        users: Mapping[str, str] = USERS,
        environment: Mapping[str, str] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.dags = dags
        self.port = free_port()
        self.users = {"admin": "admin", **users}
        self.passwords = {name: secrets.token_urlsafe(9) for name in self.users}
        self.metadata = Postgres(folder.parent / f"{folder.name}-metadata")
        self._connections = dict(connections or {})
        self._environment = dict(environment or {})
        self._settings = dict(settings or {})
        self._keeper: subprocess.Popen[bytes] | None = None
        self._people: dict[str, Person] = {}

    @property
    def url(self) -> str:
        """Address of the UI and the API."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def logs(self) -> Path:
        """Folder with what each Airflow process printed, one file a component."""
        return self.folder / "processes"

    @property
    def roots(self) -> tuple[int, int]:
        """Process ids of the one that keeps all of Airflow's, and of the metadata server, while it runs."""
        assert self._keeper is not None
        return self._keeper.pid, self.metadata.pid

    def user(self, name: str) -> Person:
        """Somebody logged in, who can do over REST what the role allows."""
        if name not in self._people:
            self._people[name] = Person(self.url, name, self.passwords[name])
        return self._people[name]

    @property
    def admin(self) -> Person:
        """The user who may do everything, for setting things up."""
        return self.user("admin")

    def start(self) -> Self:
        """Start it and wait until every component is healthy.

        Raises:
            RuntimeError: if one of them ends, or is not healthy in two minutes; with the last lines of their logs.
        """
        fresh = not self.folder.exists()
        self.logs.mkdir(parents=True, exist_ok=True)
        self.metadata.start()
        try:
            if fresh:
                self._initialise()
            self._keeper = self._keep()
            self._wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every Airflow process with all that they started, and the metadata server; what they wrote stays."""
        for person in self._people.values():
            person.close()
        self._people.clear()
        if self._keeper is not None:
            assert self._keeper.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.close()
            self._keeper.wait()
            self._keeper = None
        self.metadata.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def environment(self) -> dict[str, str]:
        """The environment of every Airflow process."""
        password = self.metadata.password
        database = f"127.0.0.1:{self.metadata.port}/airflow"
        settings = _SETTINGS | {
            "core.dags_folder": str(self.dags),
            "core.plugins_folder": str(PROJECT / "plugins"),
            "core.simple_auth_manager_users": ",".join(f"{name}:{role}" for name, role in self.users.items()),
            "core.simple_auth_manager_passwords_file": str(self._password_file),
            "core.execution_api_server_url": f"{self.url}/execution/",
            "api.port": str(self.port),
            "api.base_url": self.url,
            "database.sql_alchemy_conn": f"postgresql+psycopg2://postgres:{password}@{database}",
            "database.sql_alchemy_conn_async": f"postgresql+asyncpg://postgres:{password}@{database}",
        }
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "RECOVERY_"))}
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.folder),
            "PYTHONPATH": str(PROJECT / "include"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)]),
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
            "XDG_RUNTIME_DIR": str(self.folder),
            **{"AIRFLOW__" + "__".join(key.upper().split(".")): value for key, value in (settings | self._settings).items()},
            **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(fields) for name, fields in self._connections.items()},
            **self._environment,
        }

    def check(self) -> None:
        """Make sure that it still runs.

        Raises:
            RuntimeError: if one of its processes has ended, and so the others have too.
        """
        if self._keeper is None or self._keeper.poll() is not None:
            raise RuntimeError(f"Airflow has ended:\n{self._last_words()}")

    def component_log(self, name: str) -> str:
        """What ``api-server``, ``scheduler``, ``dag-processor``, ``triggerer`` or the ``keeper`` of them printed."""
        return (self.logs / f"{name}.log").read_text(errors="replace")

    def screenshot(
        self,
        page: str,
        file: Path,
        user: str = "operator",
        *,
        click: str = "",
        text: str = "",
        size: tuple[int, int] = (1600, 1000),
        preferences: Mapping[str, Any] | None = None,
    ) -> None:
        """Save a picture of a page of the UI, as PNG.

        Args:
            page: path below the UI's address, such as ``/dags/x/runs/y``.
            file: where to.
            user: who is logged in.
            click: name of a button to press first.
            text: words that must be on the page before the picture is taken.
            size: width and height of the window in pixels.
            preferences: what the UI remembers in the browser, such as ``{"default_dag_view": "graph",
                "<dag>/open-groups": ["<group>"]}``.

        Raises:
            FileNotFoundError: if the machine has no Chromium; says what to install.
        """
        with self.browser(user, size=size, preferences=preferences) as tab:
            tab.goto(self.url + page)
            if click:
                tab.get_by_role("button", name=click).first.click()
            if text:
                tab.get_by_text(text).first.wait_for()
            tab.wait_for_timeout(1500)  # the graph is laid out and faded in after its words are there
            tab.screenshot(path=file)

    @contextlib.contextmanager
    def browser(
        self, user: str = "operator", *, size: tuple[int, int] = (1600, 1000), preferences: Mapping[str, Any] | None = None
    ) -> Iterator[Page]:
        """An empty page of a real browser in which somebody is logged in; see :meth:`screenshot`."""
        from playwright.sync_api import sync_playwright

        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=toolchain.chromium(), args=toolchain.CHROMIUM_ARGUMENTS)
            try:
                context = browser.new_context(viewport={"width": size[0], "height": size[1]})
                context.add_cookies([{"name": "_token", "value": self.user(user).token, "url": self.url}])
                kept = {key: json.dumps(value) for key, value in (preferences or {}).items()}
                context.add_init_script(f"Object.entries({json.dumps(kept)}).forEach(([key, value]) => localStorage.setItem(key, value))")
                yield context.new_page()
            finally:
                browser.close()

    @property
    def _password_file(self) -> Path:
        return self.folder / "passwords.json"

    def _initialise(self) -> None:
        self._password_file.touch(0o600)
        self._password_file.write_text(json.dumps(self.passwords))
        with contextlib.closing(self.metadata.connect()) as connection:
            connection.execute("CREATE DATABASE airflow")
        command = [str(_PROGRAM), "db", "migrate"]
        with (self.logs / "migrate.log").open("wb") as log:
            done = subprocess.run(command, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise RuntimeError(f"Airflow could not make its database:\n{self._last_words()}")

    def _keep(self) -> subprocess.Popen[bytes]:
        programs = [(name, [str(_PROGRAM), *arguments]) for name, arguments in _COMPONENTS.items()]
        command = [sys.executable, "-m", "sandbox.keeper", str(self.logs), json.dumps(programs)]
        with (self.logs / "keeper.log").open("wb") as log:
            return subprocess.Popen(
                command, env=self.environment(), cwd=PROJECT, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
            )

    def _wait_healthy(self) -> None:
        deadline = time.monotonic() + 120
        while not self._healthy():
            self.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"Airflow is not healthy after two minutes:\n{self._last_words()}")
            time.sleep(0.2)

    def _healthy(self) -> bool:
        try:
            parts = httpx.get(f"{self.url}/api/v2/monitor/health", trust_env=False, timeout=5).raise_for_status().json()
        except httpx.HTTPError:
            return False
        return all(parts[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "triggerer", "dag_processor"))

    def _last_words(self) -> str:
        return "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}" for log in sorted(self.logs.glob("*.log")))
