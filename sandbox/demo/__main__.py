"""``make demo``: back up a sample OpenManus through Airflow, destroy it, restore it gate by gate, and verify that all came back."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from recovery.common.units import human_duration
from sandbox.airflow import Airflow
from sandbox.demo import story
from sandbox.demo.pictures import Pictures
from sandbox.demo.story import BACKUP, DRILL, MAINTENANCE, RESTORE, DemoError
from sandbox.person import Refused
from sandbox.system import System


def main() -> int:
    """Run the demo; the exit status is 0 only if everything came back equal."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="recovery-demo-"))
    folder.chmod(0o755)
    screenshots = Path(os.environ["DEMO_SCREENSHOTS"]) if os.environ.get("DEMO_SCREENSHOTS") else None
    try:
        return _demo(folder, screenshots)
    except KeyboardInterrupt:
        print("\nstopped")
        return 130
    except (DemoError, TimeoutError, Refused) as error:
        print(f"\n✘ {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _demo(folder: Path, screenshots: Path | None) -> int:
    started = time.monotonic()
    with System(folder, float(os.environ.get("DEMO_SCALE", "1"))) as system:
        with story.step("Making a sample OpenManus: PostgreSQL 18, MongoDB, uploads, configuration, S3"):
            system.fill()
        with story.step("Taking its fingerprints, independently of what is to be verified"):
            before = system.fingerprint()
        airflow = system.airflow()
        with story.step("Starting Airflow"):
            airflow.start()
        try:
            operator, approver = airflow.user("operator"), airflow.user("approver")
            operator.wait_dags(BACKUP, DRILL, RESTORE)
            operator.unpause(BACKUP, DRILL, RESTORE)
            print(
                f"\nAirflow's UI: {airflow.url}  (operator / {airflow.passwords['operator']}, approver / {airflow.passwords['approver']})"
            )
            pictures = Pictures(airflow.screenshot, screenshots)
            story.back_up(operator, pictures)
            story.drill(operator, pictures)
            pictures.form("restore_form", RESTORE)
            pictures.form("maintenance_form", MAINTENANCE)
            with story.step("\nDisaster: the database and the collections are dropped, uploads and .env deleted"):
                system.disaster()
            took = story.restore(operator, approver, pictures)
            with story.step("\nTaking the fingerprints again"):
                after = system.fingerprint()
            equal = story.equal(before, after)
            print(f"Restored in {human_duration(took)}, approvals included; the RTO is 2 h.")
            print(f"The demo took {human_duration(time.monotonic() - started)}.")
            if sys.stdin.isatty() and os.environ.get("CI") != "true":
                _stay(airflow)
        finally:
            airflow.stop()
    return 0 if equal else 1


def _stay(airflow: Airflow) -> None:
    print(f"\nLook around: {airflow.url}")
    for user in ("operator", "approver"):
        print(f"  {user} / {airflow.passwords[user]}")
    print("Ctrl-C stops everything.")
    try:
        while True:
            time.sleep(1)
            airflow.check()
    except KeyboardInterrupt:
        print("\nstopping")


if __name__ == "__main__":
    sys.exit(main())
