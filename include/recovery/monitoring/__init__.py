"""Alerts, and the heartbeat of successful backups."""
