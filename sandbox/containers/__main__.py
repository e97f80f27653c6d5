"""``python -m sandbox.containers``: whether a Docker Engine answers here or can be started; if not, one line says why."""

from __future__ import annotations

import sys

from sandbox.containers.engine import Engine, EngineError


def main() -> int:
    """Start it and stop it again."""
    try:
        with Engine() as engine:
            print(f"Docker Engine {engine.docker('version', '--format', '{{.Server.Version}}').strip()}")
    except EngineError as error:
        print(f"no tests with containers: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
