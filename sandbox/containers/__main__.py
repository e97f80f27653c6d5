"""``python -m sandbox.containers``: install what an Engine needs, and see that it runs; if it can't, one line says why."""

from __future__ import annotations

import os
import subprocess
import sys

from sandbox.containers.engine import Engine, EngineError
from sandbox.containers.stand_ins import PROJECT

_PROGRAMS = ("libcurl", "docker", "dockerd", "debootstrap", "iptables", "ip")


def main() -> int:
    """Start it and stop it again."""
    wanted = ("libcurl", "docker", "debootstrap") if os.environ.get("DOCKER_HOST") else _PROGRAMS
    if subprocess.run(["python3", PROJECT / "tools" / "setup.py", "programs", *wanted], check=False).returncode:
        return 1
    try:
        with Engine() as engine:
            print(f"Docker Engine {engine.docker('version', '--format', '{{.Server.Version}}').strip()}")
    except EngineError as error:
        print(f"no tests with containers: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
