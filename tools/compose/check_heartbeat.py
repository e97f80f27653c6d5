"""Whether one of Airflow's components beats, as the API server knows it: a health check that loads no Airflow.

Run as ``python tools/compose/check_heartbeat.py dag_processor``; the exit status is 0 only if it is healthy.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from typing import Any

HEALTH = "http://api-server:8080/api/v2/monitor/health"


def main(component: str, address: str = HEALTH) -> int:
    """Print and judge the component's state."""
    with urllib.request.urlopen(address, timeout=8) as answer:
        states: dict[str, dict[str, Any]] = json.load(answer)
    print(states[component])
    return 0 if states[component]["status"] == "healthy" else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
