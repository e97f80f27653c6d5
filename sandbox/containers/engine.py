"""A Docker Engine for tests: the one of this machine, or one of our own for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "openmanus-recovery"
"""What takes minutes to make: images, and the Compose program. It is kept between runs, outside of the project."""

_SYSTEM_SOCKET = Path("/var/run/docker.sock")
_BRIDGE = Path("/sys/class/net/docker0")
_TABLES = ("nat", "filter")
_ANSWERS_WITHIN = 60.0


class EngineError(Exception):
    """No Engine can be had here, or it refused something; the message says why."""


class Engine:
    """A Docker Engine; use it in a ``with`` block.

    It is the one of ``DOCKER_HOST``, else the one of this machine, else an own one, which needs root. An own one keeps its
    images in :data:`CACHE`, and leaves neither a network interface nor a rule of the firewall behind.
    """

    def __init__(self) -> None:
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._network: _Network | None = None

    def __enter__(self) -> Self:
        for address in filter(None, (os.environ.get("DOCKER_HOST"), f"unix://{_SYSTEM_SOCKET}" if _SYSTEM_SOCKET.exists() else "")):
            self.address = address
            if self._answers():
                return self
        self._start_own()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        self._process.wait()
        self._process = None
        if self._network:
            self._network.restore()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def docker(self, *arguments: str | Path, stdin: bytes | None = None, check: bool = True) -> str:
        """Run the ``docker`` command, and return what it printed.

        Raises:
            EngineError: if it fails; with the end of what it said.
        """
        argv = ["docker", *map(str, arguments)]
        done = subprocess.run(argv, input=stdin, capture_output=True, check=False, env=self.environment())
        if check and done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace").strip()
            raise EngineError(f"{' '.join(argv[:3])} failed with exit status {done.returncode}:\n{said[-3000:]}")
        return done.stdout.decode(errors="replace")

    def environment(self) -> dict[str, str]:
        """The environment in which clients find this Engine. Images are built without BuildKit, which not every Engine has."""
        return {**os.environ, "DOCKER_HOST": self.address, "DOCKER_BUILDKIT": "0"}

    def _answers(self) -> bool:
        with suppress(EngineError, FileNotFoundError):
            self.docker("version", "--format", "{{.Server.Version}}")
            return True
        return False

    def _start_own(self) -> None:
        if os.geteuid() != 0:
            raise EngineError("no Docker Engine answers, and only root can start one. Start Docker, or set DOCKER_HOST.")
        for program in ("dockerd", "docker", "iptables", "ip"):
            if not shutil.which(program):
                raise EngineError(f"no Docker Engine answers, and {program} is not installed. Install it, or set DOCKER_HOST.")
        self._network = _Network()
        self._folder = folder = Path(tempfile.mkdtemp(prefix="recovery-engine-"))
        self.address = f"unix://{folder}/docker.sock"
        data = CACHE / "engine"
        data.mkdir(parents=True, exist_ok=True)
        argv = ["dockerd", "--host", self.address, "--data-root", data, "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _ANSWERS_WITHIN
        while not self._answers():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                words = (folder / "log").read_text(errors="replace")[-2000:]
                self.__exit__(None, None, None)
                raise EngineError(f"dockerd {'ended' if ended else 'does not answer'}:\n{words}")
            time.sleep(0.2)


class _Network:
    """What dockerd changes of this machine's network, as it was before."""

    def __init__(self) -> None:
        self._bridge = _BRIDGE.exists()
        self._rules = {table: _rules(table) for table in _TABLES}

    def restore(self) -> None:
        """Remove the bridge, and the firewall's chains and rules, that were not there."""
        if not self._bridge:
            subprocess.run(["ip", "link", "delete", _BRIDGE.name], capture_output=True, check=False)
        for table, before in self._rules.items():
            new = [rule.split() for rule in _rules(table) if rule not in before]
            for rule in new:
                if rule[0] == "-A":
                    _iptables("-t", table, "-D", *rule[1:])
            for rule in new:
                if rule[0] == "-N":
                    _iptables("-t", table, "-X", rule[1])
            for policy in before:
                if policy.startswith("-P"):
                    _iptables("-t", table, *policy.split())


def _rules(table: str) -> list[str]:
    return _iptables("-t", table, "-S").splitlines()


def _iptables(*arguments: str) -> str:
    return subprocess.run(["iptables", "-w", *arguments], capture_output=True, check=False, text=True).stdout
