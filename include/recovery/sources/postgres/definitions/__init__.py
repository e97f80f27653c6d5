"""Definitions of a database's objects, from the catalogs."""
