"""PostgreSQL servers."""

from recovery.sources.model import SourceType

TYPE = SourceType(
    source="recovery.sources.postgres.source:Postgres",
    reader="recovery.sources.postgres.reader:PostgresReader",
    guide="recovery.sources.postgres.guide:GUIDE",
    scratch="recovery.sources.postgres.scratch_server:SERVER",
)
