import json

import pytest

from recovery.airflow.connections import s3_client
from recovery.common.errors import ConnectionUnusable


@pytest.fixture
def client(monkeypatch):
    def make(**extra):
        monkeypatch.setenv("AIRFLOW_CONN_OFFSITE", json.dumps({"conn_type": "aws", "login": "a", "password": "b", "extra": extra}))
        return s3_client("offsite")

    return make


def test_s3_client_has_the_settings_of_the_connection_and_no_checksums_of_its_own(client):
    made = client(
        endpoint_url="https://s3.example.org",
        region_name="eu-north-1",
        config_kwargs={"s3": {"addressing_style": "virtual"}, "request_checksum_calculation": "when_supported"},
    )
    config = made.meta.config
    assert (made.meta.endpoint_url, made.meta.region_name) == ("https://s3.example.org", "eu-north-1")
    assert config.s3["addressing_style"] == "virtual"
    assert (config.request_checksum_calculation, config.response_checksum_validation) == ("when_required", "when_required")


def test_s3_client_refuses_a_connection_with_a_wrong_endpoint(client):
    with pytest.raises(ConnectionUnusable, match=r"'offsite'.*endpoint_url"):
        client(endpoint_url="s3.example.org")
