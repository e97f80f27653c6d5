"""A sample system whose servers and services run in containers, and an application that writes into it."""

import yaml

from tests.support.containers import PostgresContainer, ServerContainer
from tests.support.system import SampleSystem

_WRITER = """set -u
export PATH=$SERVER:$PATH PGPASSWORD=$(cat /secret/password)
trap exit TERM
start=$(cat /proc/sys/kernel/random/uuid)
while sleep 0.2; do psql -qXh "$1" -U postgres -d "$2" -c "INSERT INTO beats VALUES ('$start')"; done
"""


class ContainedSystem(SampleSystem):
    """A sample system of which the Connection ``engine`` leads to the Engine, and ``reach`` to each server in a container.

    Args:
        engine: address of the Engine.
    """

    def __init__(self, engine: str, *arguments, **settings) -> None:
        self._engine = engine
        super().__init__(*arguments, **settings)

    def connections(self):
        return super().connections() | {"engine": {"conn_type": "generic", "host": self._engine, "extra": {"tls": False}}}

    def write_plan(self, **changes):
        super().write_plan(**changes)
        self.change_plan(self._reaching)

    def _reaching(self, plan):
        for kind, source, server in (("postgres", "main", self.postgres), ("mongo", "documents", self.mongo)):
            if isinstance(server, ServerContainer):
                plan["sources"][kind][source]["reach"] = {"docker": server.reach.model_dump(mode="json", exclude_none=True)}
        return plan

    def change_plan(self, change):
        """Write the plan file again: ``change`` gets what it says, and returns what it is to say."""
        path = self.plans / f"{self.name}.yaml"
        path.write_text(yaml.safe_dump(change(yaml.safe_load(path.read_text())), sort_keys=False))


class Writer(ServerContainer):
    """An application that inserts rows into ``beats`` of a database as long as it runs; each row names the start that wrote it."""

    script = _WRITER
    secrets = ("password",)
    stop_signal = "SIGTERM"

    def __init__(self, engine, folder, name, server: PostgresContainer, database: str) -> None:
        super().__init__(engine, folder, name, [server.address, database], password=server.password)
        self.server, self.programs = server.server, server.programs
        self._connect = lambda: server.connect(database)

    def rows(self) -> list[int]:
        """How many rows each of its starts has in the database, oldest first."""
        with self._connect() as session:
            return [count for (count,) in session.execute("SELECT count(*) FROM beats GROUP BY start ORDER BY min(written)")]

    def ready(self) -> bool:
        return bool(self.rows())

    @property
    def state(self):
        """What the Engine says of it now."""
        return self.details["State"]
