"""What Airflow asks an installed package for: here its Connection types, and how their forms look."""

from __future__ import annotations

from typing import Any

_HIDDEN = ["host", "schema", "login", "port", "extra"]


def get_provider_info() -> dict[str, Any]:
    """The Connection types, as ``airflow/provider_info.schema.json`` and ``airflow.providers_manager`` describe them."""
    return {
        "package-name": "openmanus-recovery",
        "name": "OpenManus recovery",
        "description": "Backup and recovery of PostgreSQL, MongoDB, files and configuration.",
        "connection-types": [
            _type("identity", "Recovery: age identity", "The text of identity.txt, or its line AGE-SECRET-KEY-1..."),
            _type("signing", "Recovery: signing key", "The text of signing.pem, or its line between BEGIN and END"),
        ],
    }


def _type(kind: str, name: str, paste: str) -> dict[str, Any]:
    return {
        "connection-type": f"recovery_{kind}",
        "hook-class-name": f"recovery.airflow.hooks.{kind.title()}Hook",
        "hook-name": name,
        "ui-field-behaviour": {"hidden-fields": _HIDDEN, "relabeling": {"password": "Secret key"}, "placeholders": {"password": paste}},
    }
