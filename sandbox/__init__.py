"""Real servers on free loopback ports, a sample system, and a real Airflow: what the demo, the tests and the benchmark run on."""
