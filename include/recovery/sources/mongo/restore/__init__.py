"""Restore MongoDB: load, verify, swap, in place."""
