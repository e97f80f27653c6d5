"""Packs: tar > zstd > age, and back; the index of contents."""
