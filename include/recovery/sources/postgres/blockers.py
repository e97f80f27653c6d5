"""What keeps a live database from being renamed or dropped, or breaks when it is."""

from __future__ import annotations

from collections.abc import Iterator

from recovery.sources.model import Finding, refusal, warning
from recovery.sources.postgres.client import Connection
from recovery.sources.postgres.targets import NAME_BYTES, Target

CREATE_AGAIN = "Drop it, and create it again afterwards."
"""What to do about what would go on with replaced data."""


def blockers(connection: Connection, target: Target) -> Iterator[Finding]:
    """What speaks against replacing a database by the method of the restore."""
    name, fate = target.name, "be lost with" if target.in_place else "stay with"
    for (gid,) in connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall():
        doing = "dropping it" if target.in_place else "the swap"
        yield refusal(f"The prepared transaction {gid!r} in {name} blocks {doing}. COMMIT PREPARED or ROLLBACK PREPARED it.")
    for (slot,) in connection.execute("SELECT slot_name FROM pg_replication_slots WHERE database = %s", [name]).fetchall():
        yield refusal(f"The logical replication slot {slot} would {fate} the replaced database {name}. {CREATE_AGAIN}")
    query = "SELECT s.subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = %s"
    for (subscription,) in connection.execute(query, [name]).fetchall():
        yield refusal(f"The subscription {subscription} would {fate} the replaced database {name}. {CREATE_AGAIN}")
    if connection.execute("SELECT current_setting('cron.database_name', true) = %s", [name]).fetchall() == [(True,)]:
        yield _cron(target)
    query = "SELECT FROM pg_database WHERE datname = %s AND datconnlimit = -2"
    if not target.in_place and connection.execute(query, [name]).fetchall():
        yield refusal(f"Database {name} was left by a DROP DATABASE that did not end, and can't be renamed. DROP DATABASE it again.")
    yield from _long_names(target)


def _cron(target: Target) -> Finding:
    bound = f"pg_cron is bound to database {target.name} (cron.database_name)."
    if target.in_place:
        return warning(
            f"{bound} Its jobs stop while the database is loaded, and run again as soon as their table is there. If they must wait until"
            " the restore is accepted, set cron.launch_active_jobs to off until then.",
        )
    return refusal(f"{bound} Point it to another database and restart the server first. Or choose method: in place.")


def _long_names(target: Target) -> Iterator[Finding]:
    longest = max(len(name.encode()) for name in (target.stage, target.before))
    if longest > NAME_BYTES:
        yield refusal(
            f"The name of database {target.name} is too long: {target.before} would have {longest} bytes, PostgreSQL keeps {NAME_BYTES}."
            f" Rename the database to at most {NAME_BYTES - longest + len(target.name.encode())} bytes first."
        )
