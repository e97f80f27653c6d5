import pytest

from recovery.common.connections import Endpoint
from recovery.common.errors import ConnectionUnusable
from recovery.runners.docker.address import address_of


@pytest.fixture
def files(tmp_path):
    """The extra of a Connection with TLS, and its files."""
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (tmp_path / name).touch()
    names = {"tls_ca_cert": "ca.pem", "tls_client_cert": "cert.pem", "tls_client_key": "key.pem"}
    return {key: str(tmp_path / name) for key, name in names.items()}


@pytest.mark.parametrize("scheme", ["", "unix://"])
def test_host_is_the_path_of_a_socket(tmp_path, scheme):
    (tmp_path / "docker.sock").touch()
    assert address_of(Endpoint("engine", f"{scheme}{tmp_path}/docker.sock")).url == f"unix://{tmp_path}/docker.sock"


def test_socket_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConnectionUnusable, match="no such file"):
        address_of(Endpoint("engine", f"unix://{tmp_path}/docker.sock"))


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("engine.example.org", None, "https://engine.example.org:2376"),
        ("tcp://engine.example.org", 2377, "https://engine.example.org:2377"),
        ("tcp://engine.example.org:2378", None, "https://engine.example.org:2378"),
        ("2001:db8::1", None, "https://[2001:db8::1]:2376"),
        ("tcp://[2001:db8::1]:2378", None, "https://[2001:db8::1]:2378"),
    ],
)
def test_host_is_an_address_with_tls(files, host, port, url):
    assert address_of(Endpoint("engine", host, port, extra=files)).url == url


@pytest.mark.parametrize("missing", ["tls_ca_cert", "tls_client_cert", "tls_client_key"])
def test_address_without_a_file_of_tls_is_refused(files, missing):
    del files[missing]
    with pytest.raises(ConnectionUnusable, match=f"no {missing}"):
        address_of(Endpoint("engine", "engine.example.org", extra=files))


def test_address_without_tls_has_to_be_asked_for():
    assert address_of(Endpoint("engine", "proxy", 2375, extra={"tls": False})).url == "http://proxy:2375"
    with pytest.raises(ConnectionUnusable, match="no tls_ca_cert"):
        address_of(Endpoint("engine", "proxy", 2375))


@pytest.mark.parametrize("host", ["", "http://engine/path", "ssh://engine", "tcp://"])
def test_host_that_is_no_engine_is_refused(host, files):
    with pytest.raises(ConnectionUnusable, match="has the host"):
        address_of(Endpoint("engine", host, extra=files))
