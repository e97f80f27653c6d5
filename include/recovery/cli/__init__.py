"""The command line: `recovery sets | show | verify | keys | plans` without Airflow, and `check` with its Connections."""
