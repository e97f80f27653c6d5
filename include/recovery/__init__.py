"""Backup and recovery of a system of databases, files and configuration. The work; the DAGs are in dags/."""
