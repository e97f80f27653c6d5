"""The kinds of thing a plan protects; :func:`make` gives the component of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recovery.components.base import Component
from recovery.connections import Connect
from recovery.plan_restore import ConfigTarget, FilesTarget, MongoTarget, PostgresTarget, TargetSettings
from recovery.plan_sources import ConfigSource, FilesSource, MongoSource, PostgresSource

if TYPE_CHECKING:
    from recovery.plan import Plan


def make(plan: Plan, source_id: str, connect: Connect, there: TargetSettings | None = None) -> Component:
    """The component of a plan's source; looks its Connection up, but does not connect.

    Args:
        plan: whose source it is.
        source_id: ``<component>.<name>``.
        connect: looks Connections up.
        there: where the source lies, if not in the live system.

    Raises:
        ConnectionUnusable: if the Connection is missing.
    """
    settings = plan.source(source_id)
    name = source_id.partition(".")[2]
    match settings, there:
        case PostgresSource(), PostgresTarget() | None:
            from recovery.components.postgres.component import Postgres

            connection, renamed = (there.connection, there.databases) if there else (settings.connection, {})
            return Postgres(name, settings, connect(connection), plan.tools.postgres, renamed)
        case MongoSource(), MongoTarget() | None:
            from recovery.components.mongo.component import Mongo

            return Mongo(name, settings, connect((there or settings).connection), plan.tools.mongo, there)
        case FilesSource(), FilesTarget() | None:
            from recovery.components.files import Files

            return Files(name, settings, there.path if there else None)
        case ConfigSource(), ConfigTarget() | None:
            from recovery.components.config import Config

            return Config(name, settings, there.folder if there else None)
    raise AssertionError(f"{source_id} at {there!r}")
