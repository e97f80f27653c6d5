"""Where a restore goes: the live system, a named target, scratch servers."""
