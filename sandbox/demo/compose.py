"""``make demo-compose``: start docker-compose.yaml with its sample system, back that up, destroy it, restore it, compare it.

It is a Compose project of its own, with new passwords, in a temporary folder; at the end all of it is removed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from recovery.common.units import human_duration
from sandbox.containers.engine import Engine
from sandbox.containers.errors import EngineError
from sandbox.containers.stack import Stack
from sandbox.containers.stand_ins import StandIns, compose_program
from sandbox.demo import story
from sandbox.demo.pictures import Pictures
from sandbox.demo.story import BACKUP, DRILL, RESTORE, DemoError
from sandbox.person import Refused


def main() -> int:
    """Run the demo; the exit status is 0 only if everything came back equal."""
    parser = argparse.ArgumentParser(prog="make demo-compose", description=__doc__)
    parser.add_argument("--stand-ins", action="store_true", help="images made here of Debian's packages, where no registry is reached")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="recovery-demo-"))
    folder.chmod(0o755)
    try:
        with Engine() as engine:
            return _demo(engine, folder, stand_ins=asked.stand_ins)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (DemoError, EngineError, TimeoutError, Refused) as error:
        print(f"\n✘ {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _demo(engine: Engine, folder: Path, *, stand_ins: bool) -> int:
    started = time.monotonic()
    if stand_ins:
        with story.step("Making stand-ins for images, and Docker Compose"):
            stack = Stack(engine, [compose_program()], folder, StandIns(engine).all())
    else:
        stack = Stack(engine, ["docker", "compose"], folder)
    with story.step("Starting docker-compose.yaml with its sample system: two workers, one for drills, and everything else"):
        stack.start()
    try:
        with story.step("Importing Connections: the keys, and the sample's servers"):
            stack.import_connections()
        with story.step("Taking the sample's fingerprints, independently of what is to be verified"):
            before = stack.fingerprint()
        operator, alice = stack.person("operator"), stack.person("alice")
        operator.wait_dags(BACKUP, DRILL, RESTORE)
        operator.unpause(BACKUP, DRILL, RESTORE)
        print(f"\nAirflow's UI: {stack.url}  (operator / {stack.secrets['OPERATOR_PASSWORD']}, alice / {stack.secrets['ALICE_PASSWORD']})")
        story.back_up(operator, Pictures())
        story.drill(operator, Pictures())
        with story.step("\nDisaster: the database and the collections are dropped, uploads and .env deleted"):
            stack.disaster()
        story.restore(operator, alice, Pictures())
        with story.step("\nTaking the fingerprints again"):
            after = stack.fingerprint()
        equal = story.equal(before, after)
        print(f"The demo took {human_duration(time.monotonic() - started)}.")
    finally:
        stack.stop()
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
