"""``python -m recovery``: see :mod:`recovery.cli.main`."""

import sys

from recovery.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
