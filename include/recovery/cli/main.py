"""``recovery``: what has to be done outside Airflow.

Keys before the first run, plans before they are deployed, and sets when everything else may be gone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from recovery import VERSION
from recovery.cli.text import Lines, indented
from recovery.common.errors import PlanError, RecoveryError
from recovery.common.wording import counted, escaped

if TYPE_CHECKING:
    from recovery.cli.kit import Answer, Kit
    from recovery.common.connections import Clients

_USER_ERROR = 2
_DEFECT = 3
_DEBUG = "RECOVERY_DEBUG"


def main(arguments: Sequence[str] | None = None, clients: Callable[[], Clients] | None = None) -> int:
    """Run a command.

    Args:
        arguments: of the command line.
        clients: gives what looks Connections up, for the one command that needs them.

    The exit status is 0, 1 if what was checked is not right, 2 if the command could not be done, 3 for a defect of this program.
    """
    chosen = command_line().parse_args(arguments, argparse.Namespace(clients=clients))
    try:
        status: int = chosen.run(chosen)
        sys.stdout.flush()
    except RecoveryError as error:
        print(f"{indented(error.what)}\n{indented(error.next_step)}", file=sys.stderr)
        return _USER_ERROR
    except BrokenPipeError:  # whoever read this has seen enough; nothing is left to be flushed at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _USER_ERROR
    except OSError as error:
        print(f"{indented(str(error))}\nMend that, and try again.", file=sys.stderr)
        return _USER_ERROR
    except KeyboardInterrupt:
        print("Interrupted; nothing is known.", file=sys.stderr)
        return _USER_ERROR
    except Exception as error:  # noqa: BLE001 - whoever needs a set today is told what to make of it
        return _defect(error)
    return status


def _defect(error: Exception) -> int:
    if os.environ.get(_DEBUG):
        traceback.print_exception(error)
    print(
        f"This is a defect of this program ({type(error).__name__}), and says nothing of any set."
        f" Report it with what the same command prints with {_DEBUG}=1 in its environment.",
        file=sys.stderr,
    )
    return _DEFECT


def command_line() -> argparse.ArgumentParser:
    """The parser of ``recovery``, with all its commands."""
    parser = argparse.ArgumentParser(prog="recovery", description="Keys, plans and sets of the backup and recovery DAGs.")
    parser.add_argument("--version", action="version", version=VERSION)
    areas = parser.add_subparsers(required=True, metavar="keys|plans|check|sets|show|verify")

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

    tried = areas.add_parser("check", help="try out destinations and PostgreSQL servers of a plan; exit status 1 if one can't be used")
    tried.add_argument("plan", metavar="PLAN", help="its name, in the folder that RECOVERY_PLANS names, else in include/plans")
    tried.add_argument("--json", action="store_true", help="print JSON")
    tried.set_defaults(run=_try_out)
    _add_sets(areas)
    return parser


def _add_sets(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    sets = areas.add_parser("sets", help="the sets of a folder or bucket, newest first; needs no plan and no Airflow")
    show = areas.add_parser("show", help="what one set has")
    verify = areas.add_parser(
        "verify", help="read sets to the last byte; exit status 0 valid, 1 invalid or signatures not checked, 2 not known"
    )
    for command in (sets, show, verify):
        command.add_argument("place", metavar="PLACE", help="a destination's folder, a plan's or a set's in it, or s3://bucket/prefix")
        command.add_argument("--public-key", type=Path, metavar="public.pem", help="checks signatures; without, they are NOT CHECKED")
        command.add_argument("--plan", metavar="NAME", help="only this plan's sets")
        command.add_argument("--endpoint-url", metavar="URL", help="of an S3 server that is not Amazon's")
        command.add_argument("--json", action="store_true", help="print JSON")
    for command in (show, verify):
        command.add_argument(
            "set", metavar="SET", nargs="?", help="an id, or latest: the newest complete one; may be left out if there is only one"
        )
    show.add_argument("--identity", type=Path, metavar="identity.txt", help="opens the set: counts of what it has")
    verify.add_argument("--identity", type=Path, metavar="identity.txt", help="opens the set: every pack is decrypted and read")
    verify.add_argument("--all", action="store_true", help="every set")
    for command, function in ((sets, _list_sets), (show, _show_set), (verify, _verify_sets)):
        command.set_defaults(run=function)


def _prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,200}", text):
        raise argparse.ArgumentTypeError("letters, digits, _, . and - only")
    return text


def _create_keys(chosen: argparse.Namespace) -> int:
    from recovery.crypto.key_kit import CONNECTIONS_FILE, create_keys
    from recovery.crypto.recipients import IDENTITY_FILE
    from recovery.crypto.signing import PUBLIC_FILE, SIGNING_FILE

    made = create_keys(chosen.out, chosen.id_prefix)
    connections = made.folder / CONNECTIONS_FILE
    print(f"""\
{made.folder / IDENTITY_FILE}      opens the backups (age identity)
{made.folder / SIGNING_FILE}       signs them (Ed25519, fingerprint {made.verify_key.fingerprint})
{made.folder / PUBLIC_FILE}        checks their signature; not secret

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
    from recovery.plan.loader import folder, load_plans

    where = chosen.folder or folder()
    plans = load_plans(where)
    for plan in plans.valid:
        has = f"{counted(len(plan.source_ids), 'source')}, {counted(len(plan.destinations), 'destination')}"
        print(f"plan {plan.plan}: valid, with {has}; `recovery check {plan.plan}` tries out what it names")
    for broken in plans.broken:
        print(indented(str(broken)), file=sys.stderr)
    if not plans.valid and not plans.broken:
        print(f"There is no plan file in {where}.", file=sys.stderr)
    return 1 if plans.broken or not plans.valid else 0


def _try_out(chosen: argparse.Namespace) -> int:
    from recovery.cli.check import check
    from recovery.plan.loader import load_plan

    return _print(chosen, check(load_plan(chosen.plan), chosen.clients()))


def _print_schema(chosen: argparse.Namespace) -> int:
    from recovery.plan.loader import plan_schema

    print(json.dumps(plan_schema(), indent=2, sort_keys=True))
    return 0


def _list_sets(chosen: argparse.Namespace) -> int:
    from recovery.cli.sets import sets

    with _kit(chosen) as kit:
        return _print(chosen, sets(kit))


def _show_set(chosen: argparse.Namespace) -> int:
    from recovery.cli.show import show

    with _kit(chosen) as kit:
        return _print(chosen, show(kit, chosen.set))


def _verify_sets(chosen: argparse.Namespace) -> int:
    from recovery.cli.verify import verify

    if chosen.all and chosen.set:
        raise PlanError("A set and --all were both given.", "Give one of them.")
    with _kit(chosen) as kit, _progress_shown():
        return _print(chosen, verify(kit, chosen.set, chosen.all))


@contextmanager
def _kit(chosen: argparse.Namespace) -> Iterator[Kit]:
    from recovery.cli.kit import open_kit

    kit = open_kit(chosen.place, chosen.endpoint_url, chosen.public_key, getattr(chosen, "identity", None), chosen.plan)
    with kit.words():
        yield kit


@contextmanager
def _progress_shown() -> Iterator[None]:
    """On standard error: a long reading says how far it is."""
    log = logging.getLogger("recovery")
    handler = logging.StreamHandler()
    handler.setFormatter(Lines())
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(logging.NOTSET)


def _print(chosen: argparse.Namespace, answer: Answer) -> int:
    print(json.dumps(answer.facts, indent=2) if chosen.json else "\n".join(map(escaped, answer.lines)).rstrip())
    return answer.status
