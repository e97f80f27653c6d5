"""A Docker Engine for tests: the one of this machine, or one of our own for as long as it is needed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sandbox.containers.errors import EngineError, NoEngine
from sandbox.containers.network import Network

CACHE = Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "openmanus-recovery"
"""What takes minutes to make: images, and the Compose program. It is kept between runs, outside of the project."""

_SYSTEM_SOCKET = Path("/var/run/docker.sock")
_ANSWERS_WITHIN = 60.0
_ENDS_WITHIN = 30.0
_BRIDGES = '{{or (index .Options "com.docker.network.bridge.name") (printf "br-%.12s" .ID)}}'
_FORBIDDEN = ("operation not permitted", "permission denied", "operation not supported", "protocol not supported", "no such device")
"""What a kernel says that does not let even root do what dockerd needs, as in a container without privileges."""


class Engine:
    """A Docker Engine; use it in a ``with`` block.

    It is the one of ``DOCKER_HOST`` if that is set, else the one of this machine, else an own one, which needs root. An own one
    keeps its images in :data:`CACHE`, and leaves neither a network interface nor a rule of the firewall behind.

    Raises:
        NoEngine: on entry, if none answers, and none of its own can run here.
        EngineError: on entry, if one should answer or run, and does not.
    """

    def __init__(self) -> None:
        self.address = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None
        self._network: Network | None = None

    def __enter__(self) -> Self:
        if named := os.environ.get("DOCKER_HOST"):
            self.address = named
            if not self._answers():
                raise EngineError(f"no Docker Engine answers at DOCKER_HOST={named}. Start it, or unset DOCKER_HOST.")
            return self
        self.address = f"unix://{_SYSTEM_SOCKET}"
        if not _SYSTEM_SOCKET.exists() or not self._answers():
            self._start_own()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop_own()

    def docker(self, *arguments: str | Path, stdin: bytes | None = None, check: bool = True, stderr: int = subprocess.PIPE) -> str:
        """Run the ``docker`` command, and return what it printed: to its standard output, unless ``stderr`` says otherwise.

        Raises:
            EngineError: if it fails; with the end of what it said.
        """
        argv = ["docker", *map(str, arguments)]
        done = subprocess.run(argv, input=stdin, stdout=subprocess.PIPE, stderr=stderr, check=False, env=self.environment())
        if check and done.returncode:
            said = (done.stdout + (done.stderr or b"")).decode(errors="replace").strip()
            raise EngineError(f"{' '.join(argv[:3])} failed with exit status {done.returncode}:\n{said[-3000:]}")
        return done.stdout.decode(errors="replace")

    def logs(self, container: str) -> str:
        """All that a container has printed, to its standard output and to its standard error.

        Raises:
            EngineError: if there is no such container.
        """
        return self.docker("logs", container, stderr=subprocess.STDOUT)

    def environment(self) -> dict[str, str]:
        """The environment in which clients find this Engine. Images are built without BuildKit, which not every Engine has."""
        return {**os.environ, "DOCKER_HOST": self.address, "DOCKER_BUILDKIT": "0"}

    def _answers(self) -> bool:
        with suppress(EngineError, FileNotFoundError):
            self.docker("version", "--format", "{{.Server.Version}}")
            return True
        return False

    def _start_own(self) -> None:
        _check_possible()
        self._network = Network()
        self._folder = Path(tempfile.mkdtemp(prefix="recovery-engine-"))
        try:
            self._run_dockerd(self._folder)
        except BaseException:  # also Ctrl-C: dockerd is in a session of its own, and would run on
            self._stop_own()
            raise

    def _run_dockerd(self, folder: Path) -> None:
        self.address = f"unix://{folder}/docker.sock"
        data = CACHE / "engine"
        data.mkdir(parents=True, exist_ok=True)
        end_with_this_process = ["setpriv", "--pdeathsig=TERM"]
        where = ["--host", self.address, "--data-root", data, "--exec-root", folder / "exec", "--pidfile", folder / "pid"]
        argv = [*end_with_this_process, "dockerd", *where]
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(part) for part in argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _ANSWERS_WITHIN
        while not self._answers():
            if self._process.poll() is not None:
                raise _why_ended((folder / "log").read_text(errors="replace"))
            if time.monotonic() > deadline:
                raise EngineError(f"dockerd does not answer:\n{(folder / 'log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)

    def _stop_own(self) -> None:
        """End an own Engine, and take back what it changed; each step also if the one before failed."""
        with ExitStack() as steps:
            if self._folder:
                steps.callback(shutil.rmtree, self._folder, ignore_errors=True)
            if self._process:
                bridges: list[str] = []
                if self._network:
                    steps.callback(self._network.restore, bridges)
                steps.callback(_end, self._process)
                bridges += self._bridges() if self._answers() else []
        self._process = self._folder = None

    def _bridges(self) -> list[str]:
        networks = self.docker("network", "ls", "--quiet", "--filter", "driver=bridge").split()
        return self.docker("network", "inspect", "--format", _BRIDGES, *networks).split()


def _end(dockerd: subprocess.Popen[bytes]) -> None:
    dockerd.send_signal(signal.SIGTERM)
    try:
        dockerd.wait(_ENDS_WITHIN)
    except subprocess.TimeoutExpired:  # one that is still starting may never heed it
        dockerd.kill()
        dockerd.wait()


def _check_possible() -> None:
    if os.geteuid() != 0:
        raise NoEngine("no Docker Engine answers, and only root can start one. Start Docker, or set DOCKER_HOST.")
    for program in ("dockerd", "docker", "iptables", "ip", "setpriv", "unshare"):
        if not shutil.which(program):
            raise NoEngine(f"no Docker Engine answers, and {program} is not installed. Install it, or set DOCKER_HOST.")
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        raise NoEngine("dockerd needs the right to mount, which this process has not: is it in a container without privileges?")


def _why_ended(log: str) -> EngineError:
    """Why dockerd ended at its start: its last line tells whether the kernel forbids it, or something is broken."""
    last = log.strip().lower().rpartition("\n")[2]
    forbidden = last.startswith("failed to start daemon") and any(words in last for words in _FORBIDDEN)
    return (NoEngine if forbidden else EngineError)(f"dockerd ended:\n{log[-2000:]}")
