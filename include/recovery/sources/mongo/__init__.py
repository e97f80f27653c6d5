"""MongoDB replica sets and standalone servers."""
