"""``python -m recovery``: what has to be done outside Airflow. Keys before the first run, and plans before they are deployed."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from recovery import VERSION
from recovery.errors import RecoveryError

_USER_ERROR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 0, 1 if what was checked is not right, 2 if the command could not be done."""
    chosen = _parser().parse_args(arguments)
    try:
        status: int = chosen.run(chosen)
    except RecoveryError as error:
        print(f"{error.what}\n{error.next_step}", file=sys.stderr)
        return _USER_ERROR
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m recovery", description="Keys and plans of the backup and recovery DAGs.")
    parser.add_argument("--version", action="version", version=VERSION)
    areas = parser.add_subparsers(required=True, metavar="keys|plans")

    keys = areas.add_parser("keys", help="the keys that encrypt and sign").add_subparsers(required=True, metavar="create")
    create = keys.add_parser("create", help="make a recovery kit: an age identity and a signing key")
    create.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where to write it; nothing is overwritten")
    create.add_argument("--id-prefix", type=_prefix, default="openmanus", help="begins the ids of the Connections (default: %(default)s)")
    create.set_defaults(run=_create_keys)

    plans = areas.add_parser("plans", help="plan files").add_subparsers(required=True, metavar="check|schema")
    check = plans.add_parser("check", help="say every error of every plan file; exit status 1 if there is one")
    check.add_argument("folder", type=Path, nargs="?", metavar="FOLDER", help="default: what RECOVERY_PLANS names, else include/plans")
    check.set_defaults(run=_check_plans)
    schema = plans.add_parser("schema", help="print the JSON Schema of a plan file")
    schema.set_defaults(run=_print_schema)
    return parser


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", text):
        raise argparse.ArgumentTypeError("letters, digits, _, . and - only")
    return text


def _create_keys(chosen: argparse.Namespace) -> int:
    from recovery import keys

    made = keys.create_keys(chosen.out, chosen.id_prefix)
    connections = made.folder / keys.CONNECTIONS_FILE
    print(f"""\
{made.folder / keys.IDENTITY_FILE}      opens the backups (age identity)
{made.folder / keys.SIGNING_FILE}       signs them (Ed25519, fingerprint {made.verify_key.fingerprint})
{made.folder / keys.PUBLIC_FILE}        checks their signature; not secret

1. Write into the plan:

     encryption:
       recipients: [{made.recipient}]
       identity: {made.identity_connection}
     signing: {made.signing_connection}

2. Add the two Connections to Airflow, then remove the file that had them:

     airflow connections import {connections}
     rm {connections}

3. Copy identity.txt, signing.pem and public.pem to a place that does not burn down together with the backups, such as
   a password manager or paper. Without the identity nobody opens a backup any more, you included.""")
    return 0


def _check_plans(chosen: argparse.Namespace) -> int:
    from recovery.plans import folder, load_plans

    where = chosen.folder or folder()
    plans = load_plans(where)
    for plan in plans.good:
        print(f"plan {plan.plan}: good, {len(plan.source_ids)} sources, {len(plan.destinations)} destinations")
    for broken in plans.broken:
        print(broken, file=sys.stderr)
    if not plans.good and not plans.broken:
        print(f"There is no plan file in {where}.", file=sys.stderr)
    return 1 if plans.broken or not plans.good else 0


def _print_schema(chosen: argparse.Namespace) -> int:
    from recovery.plans import plan_schema

    print(json.dumps(plan_schema(), indent=2, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
