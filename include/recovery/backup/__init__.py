"""Back up: dump, compress, verify, upload, prune."""
