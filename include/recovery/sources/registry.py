"""The kinds of thing a plan protects; :func:`make` gives the component of a source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recovery.common.connections import Connect
from recovery.plan.kinds.config import ConfigSource, ConfigTarget
from recovery.plan.kinds.files import FilesSource, FilesTarget
from recovery.plan.kinds.mongo import MongoSource, MongoTarget
from recovery.plan.kinds.postgres import PostgresSource, PostgresTarget
from recovery.plan.restore_targets import TargetSettings
from recovery.sources.base import Component

if TYPE_CHECKING:
    from recovery.plan.model import Plan


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
            from recovery.sources.postgres.component import Postgres

            connection, renamed = (there.connection, there.databases) if there else (settings.connection, {})
            return Postgres(name, settings, connect(connection), plan.tools.postgres, renamed)
        case MongoSource(), MongoTarget() | None:
            from recovery.sources.mongo.component import Mongo

            return Mongo(name, settings, connect((there or settings).connection), plan.tools.mongo, there)
        case FilesSource(), FilesTarget() | None:
            from recovery.sources.files.local import Files

            return Files(name, settings, there.path if there else None)
        case ConfigSource(), ConfigTarget() | None:
            from recovery.sources.config.component import Config

            return Config(name, settings, there.folder if there else None)
    raise AssertionError(f"{source_id} at {there!r}")
