"""The kinds of thing a plan protects; :func:`make` gives the component of a source."""

from __future__ import annotations

from recovery.components.base import Component
from recovery.connections import Connect
from recovery.plan import ConfigSource, FilesSource, MongoSource, Plan, PostgresSource


def make(plan: Plan, source_id: str, connect: Connect) -> Component:
    """The component of a plan's source; looks its Connection up, but does not connect.

    Raises:
        ConnectionUnusable: if the Connection is missing.
    """
    settings = plan.source(source_id)
    name = source_id.partition(".")[2]
    match settings:
        case PostgresSource():
            from recovery.components.postgres import Postgres

            return Postgres(name, settings, connect(settings.connection), plan.tools.postgres)
        case MongoSource():
            from recovery.components.mongo import Mongo

            return Mongo(name, settings, connect(settings.connection), plan.tools.mongo)
        case FilesSource():
            from recovery.components.files import Files

            return Files(name, settings)
        case ConfigSource():
            from recovery.components.config import Config

            return Config(name, settings)
