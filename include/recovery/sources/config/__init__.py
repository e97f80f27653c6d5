"""Named files and folders that hold settings or code."""

from recovery.sources.model import SourceType

TYPE = SourceType(
    source="recovery.sources.config.source:Config",
    reader="recovery.sources.config.reader:ConfigReader",
    guide="recovery.sources.config.guide:GUIDE",
)
