"""Pictures of Airflow's pages, as the documents show them and as an operator sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sandbox.person import Gate

_SIZE = (1600, 800)
_LONG = (1600, 1700)
"""A page whose text is to be seen as a whole."""


class Pictures:
    """Takes pictures, or none.

    Args:
        screenshot: takes one; see :meth:`sandbox.airflow.Airflow.screenshot`.
        folder: where to; None for no pictures.
    """

    def __init__(self, screenshot: Callable[..., object] | None = None, folder: Path | None = None) -> None:
        self._screenshot = screenshot
        self._folder = folder

    def graph(self, name: str, dag_id: str, run: str, groups: Sequence[str]) -> None:
        """The graph of a run, its groups open, with little room for what lies beside it."""
        preferences = {
            "default_dag_view": "graph",
            f"{dag_id}/open-groups": list(groups),
            "react-resizable-panels:graph-ltr": {"details-panel,main-panel": {"expandToSizes": {}, "layout": [80, 20]}},
        }
        self._take(name, f"/dags/{dag_id}/runs/{run}", text="Task Group", size=_SIZE, preferences=preferences)

    def gate(self, gate: Gate) -> None:
        """A gate that waits for an answer."""
        page = f"/dags/{gate.dag_id}/runs/{gate.run_id}/tasks/{gate.task_id}/required_actions"
        self._take(gate.task_id, page, user="approver", text="Reject", size=_LONG if gate.task_id == "approve_plan" else _SIZE)

    def report(self, name: str, dag_id: str, run: str) -> None:
        """The report of a run that has ended, in the log of its last task."""
        self._take(name, f"/dags/{dag_id}/runs/{run}/tasks/report", text="SUCCESS", size=_LONG)

    def form(self, name: str, dag_id: str) -> None:
        """The form that triggers a DAG."""
        self._take(name, f"/dags/{dag_id}", click="Trigger", size=_LONG)

    def _take(self, name: str, page: str, **how: object) -> None:
        if self._folder and self._screenshot:
            self._screenshot(page, self._folder / f"{name}.png", **how)
