"""The only room that imports Airflow: tasks, gates, the form, Connections, mail, DAG docs."""
