"""Backup sets: manifest, catalog, records, retention, transfer, verification."""
