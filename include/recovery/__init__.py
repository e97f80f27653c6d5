"""Backup and recovery of a system of databases, files and configuration. The work; the DAGs are in dags/."""

VERSION = "0.1.0"
"""Of this software; the wheel is built with it."""
