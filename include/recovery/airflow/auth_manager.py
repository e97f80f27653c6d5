"""Who may answer a gate, where Airflow's users are kept by the FAB auth manager."""

from __future__ import annotations

from typing import Any

from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager


class FabAuthManagerByName(FabAuthManager):
    """FAB, with gates assigned to people by user name.

    FAB's own user ids are row numbers of its table. A plan names its approvers as they log in, and a run names who
    triggered it that way too, so names are what a gate can compare.
    """

    def is_authorized_hitl_task(self, *, assigned_users: set[str], user: Any) -> bool:
        """Whether this person is among those the gate was assigned to."""
        return user.get_name() in assigned_users
