"""The process that decrypts packs, profiled: started in the place of :mod:`recovery.packs.decrypt_worker`, as that is.

What it spent processor time on is written to the folder that the environment names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main() -> int:
    """Do what it does."""
    project, before = Path(__file__).parents[2], time.process_time()
    sys.path[:0] = [str(project / "include"), str(project)]
    from sandbox.bench.stacks import PROFILE, sampled

    own = time.process_time() - before
    from recovery.packs import decrypt_worker

    with sampled() as found:
        status = decrypt_worker.main()
    found[PROFILE] = own
    (Path(os.environ["BENCH_PROFILE"]) / f"{os.getpid()}.json").write_text(json.dumps(found))
    return status


if __name__ == "__main__":
    sys.exit(main())
