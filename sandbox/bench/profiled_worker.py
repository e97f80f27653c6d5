"""The process that decrypts packs, profiled: started in the place of :mod:`recovery.packs.decrypt_worker`, as that is.

What it spent processor time on is written to the folder that the environment names.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path


def main() -> int:
    """Do what it does."""
    project = Path(__file__).parents[2]
    sys.path[:0] = [str(project / "include"), str(project)]
    from recovery.packs import decrypt_worker
    from sandbox.bench.stacks import sampled

    with sampled() as found:
        status = decrypt_worker.main()
    (Path(os.environ["BENCH_PROFILE"]) / f"{os.getpid()}.json").write_text(json.dumps(found))
    return status


if __name__ == "__main__":
    sys.exit(main())
