"""The heartbeat of successful backups."""
