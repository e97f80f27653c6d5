"""Sets looked at without Airflow and without a plan: all that is needed is where they lie and the recovery kit."""
