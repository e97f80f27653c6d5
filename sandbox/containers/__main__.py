"""``python -m sandbox.containers``: install what an Engine needs, and see that it runs; if it can't, one line says why.

The exit status is 0 if an Engine runs, 3 if none is possible on this machine or for this person, and another one if something
failed that should work.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from sandbox.containers.engine import Engine
from sandbox.containers.errors import EngineError, NoEngine
from sandbox.containers.stand_ins import PROJECT

NOT_POSSIBLE = 3
"""Exit status if no Engine is possible here; tools/setup.py has the same one for programs that it may not install."""
_PROGRAMS = ("libcurl", "docker", "dockerd", "debootstrap", "iptables", "ip")


def main() -> int:
    """Start it and stop it again."""
    wanted = ("libcurl", "docker", "debootstrap") if os.environ.get("DOCKER_HOST") else _PROGRAMS
    setup = subprocess.run(["python3", PROJECT / "tools" / "setup.py", "programs", *wanted], check=False)
    if setup.returncode:
        return setup.returncode
    try:
        with Engine() as engine:
            print(f"Docker Engine {engine.docker('version', '--format', '{{.Server.Version}}').strip()}")
    except EngineError as error:
        print(f"no tests with containers: {' '.join(str(error).split())}", file=sys.stderr)
        return NOT_POSSIBLE if isinstance(error, NoEngine) else 1
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    sys.exit(main())
