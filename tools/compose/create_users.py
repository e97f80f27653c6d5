"""Makes the people of docker-compose.yaml in Airflow's FAB auth manager, once; who exists already is left as is.

Each variable ``RECOVERY_USER_<NAME>=<Role>:<password>`` is a person. Passwords stay in the environment, since an argument is
seen by everybody on the machine.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

PREFIX = "RECOVERY_USER_"


def people(environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """User name, role and password of each.

    Raises:
        ValueError: if a variable is not ``<Role>:<password>``, with a password of at least 12 characters; it is not repeated.
    """
    for key, value in sorted(environ.items()):
        if not key.startswith(PREFIX):
            continue
        role, colon, password = value.partition(":")
        if not role or not colon or len(password) < 12:
            raise ValueError(f"{key} must be <Role>:<password>, the password of at least 12 characters")
        yield key[len(PREFIX) :].lower(), role, password


def main() -> int:
    """Make who is missing."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    wanted = list(people(os.environ))
    with get_application_builder() as builder:
        manager = builder.sm
        for name, role_name, password in wanted:
            role = manager.find_role(role_name)
            if role is None:
                print(f"{name}: Airflow has no role {role_name}", file=sys.stderr)
                return 1
            if manager.find_user(name):
                print(f"{name} exists already")
            elif manager.add_user(name, name.title(), "", f"{name}@localhost", role, password):
                print(f"{name} was made, with the role {role_name}")
            else:
                print(f"{name} could not be made; the log above says why", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
