"""The forms that people trigger with, in a real browser."""

import pytest

from sandbox.servers import wait_for


@pytest.mark.parametrize("family", ["backup", "restore", "drill", "maintenance"])
def test_trigger_form_can_be_submitted_with_default_values(airflow, operator, family):
    """A field that is wrong when the form opens would leave its button dead, with nothing to be done in the UI."""
    dag = f"openmanus_{family}"
    with airflow.browser() as tab:
        tab.goto(f"{airflow.url}/dags/{dag}")
        tab.get_by_role("button", name="Trigger").first.click()
        form = tab.get_by_role("dialog")
        form.get_by_text("Run Parameters").wait_for()
        button = form.get_by_role("button", name="Trigger")
        wait_for("the button to be alive", button.is_enabled, seconds=30)
        if family == "maintenance":
            before = set(operator.run_ids(dag))
            button.click()
            wait_for("the run", lambda: set(operator.run_ids(dag)) - before)
