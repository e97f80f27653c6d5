"""What a restored system must answer: commands, addresses, queries; each tried again before it counts as failed.

Queries run in sessions that may only read, aggregations have no stages that write, addresses are asked with ``GET``. What a
command does, or a service on a ``GET``, is up to it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal

from recovery.common.deadline import within
from recovery.common.errors import RecoveryError, SourceError, SourceUnreachable
from recovery.plan.checks import Check, HttpQuestion
from recovery.plan.source_settings import Question
from recovery.runners.commands import Outcome, run_one
from recovery.sources.base import Queryable
from recovery.targets.target import RestoreTarget

log = logging.getLogger(__name__)

_SHOWN = 200
_BODY_BYTES = 10 << 20
_MISSING = object()


class _WrongError(Exception):
    """The system answered, and the answer is not the right one; its text says what was expected and found."""


def run_check(check: Check, target: RestoreTarget) -> Outcome:
    """Ask once or, while the answer is wrong, as often as the check says.

    Args:
        check: what to ask.
        target: where; names of databases and collections are those of the set, whatever they are called there.
    """
    tries = check.retries + 1
    for number in range(1, tries + 1):
        ok, words = _try(check, target)
        log.log(logging.INFO if ok else logging.WARNING, "%s, try %d of %d: %s", check.title, number, tries, words)
        if ok or number == tries:
            break
        time.sleep(check.pause.total_seconds())
    if not ok and tries > 1:
        words = f"{words} ({tries} tries)"
    return Outcome(check.title, ok, words)


def _try(check: Check, target: RestoreTarget) -> tuple[bool, str]:
    try:
        if check.argv:
            outcome = run_one(check.argv, check.timeout, check.title)
            return outcome.ok, outcome.words
        return True, _right_answer(check, target)
    except _WrongError as wrong:
        return False, str(wrong)
    except RecoveryError as error:
        return False, error.what
    except RecursionError:
        return False, "the answer is nested too deeply to be looked at"
    except Exception as error:
        log.exception("%s", check.title)
        return False, f"it could not be asked: {type(error).__name__}, see the log"


def _right_answer(check: Check, target: RestoreTarget) -> str:
    """What was found, if it is right.

    Raises:
        _WrongError: if it is not.
        RecoveryError: if there is no answer.
    """
    if check.http:
        return _http(check.http, check.timeout)
    assert check.question
    question, source = check.question, target.source(check.question.source, Queryable)  # before the thread: Connections are looked up here
    return _compared(within(check.timeout, lambda: source.answer(question, check.timeout)), question)


# Addresses ----------------------------------------------------------------------------------------------------------


def _http(question: HttpQuestion, timeout: timedelta) -> str:
    status, where_to, body = within(timeout, lambda: _fetch(question.url, timeout, with_body=bool(question.fields)))
    if status != question.status:
        raise _WrongError(f"expected status {question.status}, found {status}{where_to}")
    if not question.fields:
        return f"status {status}"
    try:
        document = json.loads(body)
    except ValueError:
        raise _WrongError(f"status {status}, but the answer is not JSON") from None
    for path, expected in question.fields.items():
        found = at_path(document, path)
        if found is _MISSING:
            raise _WrongError(f"expected {path} to be {_shown(expected)}, but the answer has no such field")
        if not same(expected, found):
            raise _WrongError(f"expected {path} to be {_shown(expected)}, found {_shown(found)}")
    return f"status {status}, {', '.join(f'{path} is {_shown(expected)}' for path, expected in question.fields.items())}"


def _fetch(url: str, timeout: timedelta, *, with_body: bool) -> tuple[int, str, bytes]:
    """Status, where a redirect would lead, and the body; redirects are not followed, since where they lead may be well."""
    import httpx

    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs addresses as they are, with what is secret in them
    body = b""
    try:
        address = httpx.URL(url)
        login = httpx.BasicAuth(address.username, address.password) if address.username or address.password else None
        with httpx.stream("GET", address.copy_with(userinfo=b""), auth=login, timeout=timeout.total_seconds()) as response:
            if with_body:
                for part in response.iter_bytes():
                    body += part
                    if len(body) > _BODY_BYTES:
                        raise _WrongError("the answer is too long to be looked at")
        target = httpx.URL(response.headers.get("location", "")).copy_with(userinfo=b"", query=None, fragment=None)
    except (httpx.InvalidURL, ValueError) as error:  # a host that is no IDNA name is a ValueError
        raise SourceError(f"not an address: {error}", "Correct it in the plan, or where it redirects to.") from None
    except httpx.HTTPError as error:
        raise SourceUnreachable(f"no answer: {type(error).__name__}: {error}", "Look at the service behind the address.") from None
    return response.status_code, f" to {target}; redirects are not followed" if response.has_redirect_location else "", body


def at_path(document: object, path: str) -> object:
    """What a JSON document has at a dotted path: names of fields, and numbers of items of lists, from 0."""
    found = document
    for part in path.split("."):
        if isinstance(found, Mapping) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return _MISSING
    return found


# Databases ----------------------------------------------------------------------------------------------------------


def _compared(found: object, question: Question) -> str:
    value = plain(found)
    if question.at_least is None:
        if not same(question.equals, value):
            raise _WrongError(f"expected {_shown(question.equals)}, found {_shown(value)}")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise _WrongError(f"expected at least {question.at_least:g}, found {_shown(value)}, which is no number")
    elif not value >= question.at_least:
        raise _WrongError(f"expected at least {question.at_least:g}, found {_shown(value)}")
    return f"found {_shown(value)}"


# Values ----------------------------------------------------------------------------------------------------


def plain(value: object) -> object:
    """A database's value as JSON has it: numbers are numbers, what JSON doesn't know is text."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if type(value).__name__ == "Decimal128":
        value = value.to_decimal()  # type: ignore[attr-defined]
    if isinstance(value, Decimal):
        return plain(int(value) if value.is_finite() and value == int(value) else float(value))
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value)


def same(expected: object, found: object) -> bool:
    """Whether two JSON values are the same; true is not 1, and "1" is not either."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        return expected.keys() == found.keys() and all(same(value, found[key]) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        return len(expected) == len(found) and all(map(same, expected, found))
    return isinstance(expected, bool) == isinstance(found, bool) and expected == found


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
