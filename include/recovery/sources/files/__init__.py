"""Folders with everything in them."""

from recovery.sources.model import SourceType

TYPE = SourceType(
    source="recovery.sources.files.local:Files",
    reader="recovery.sources.trees.reader:TreeReader",
    guide="recovery.sources.files.guide:GUIDE",
)
