"""What the command ``recovery`` runs, as ``python -I -m recovery``: see :mod:`recovery.cli.main`, and ``tools/install.py``."""

import sys

from recovery.cli.main import main
from recovery.common.connections import Clients


def _clients() -> Clients:
    from recovery.airflow.connections import for_commands

    return for_commands()


if __name__ == "__main__":
    if not sys.flags.isolated:
        sys.stderr.write("Without -I, Python imports what somebody put into the working folder. Run the command recovery instead.\n")
        sys.exit(2)
    sys.exit(main(clients=_clients))
