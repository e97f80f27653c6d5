"""MongoDB replica sets and standalone servers."""

from recovery.sources.model import SourceType

TYPE = SourceType(
    source="recovery.sources.mongo.source:Mongo",
    reader="recovery.sources.mongo.reader:MongoReader",
    guide="recovery.sources.mongo.guide:GUIDE",
    scratch="recovery.sources.mongo.scratch_server:SERVER",
)
