"""Containers are found by name, on a real Engine."""

import re
import secrets
import ssl
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from recovery.common.connections import Endpoint
from recovery.common.errors import ContainerError
from recovery.plan.docker import DockerContainer
from recovery.plan.services import Services
from recovery.runners.docker.address import address_of
from recovery.runners.docker.engine import ONE_OFF, PROJECT, SERVICE, Engine
from recovery.runners.docker.stream import run
from recovery.runs import services
from recovery.runs.journal import Journal
from sandbox.containers import stand_ins
from tests.support.containers import CuttingProxy, Reached, ReachedSite
from tests.support.filtering_proxy import FilteringProxy

pytestmark = pytest.mark.docker


@pytest.fixture
def create(opened):
    """Creates a container that only waits, by a name and labels."""
    made = []

    def create(name, command=("sleep", "infinity"), *, start=True, **labels):
        container = opened.client.create_container(stand_ins.BASE, list(command), name=name, labels=labels, stop_signal="SIGKILL")
        made.append(container["Id"])
        if start:
            opened.client.start(container["Id"])
        return container["Id"]

    yield create
    for each in made:
        opened.client.remove_container(each, force=True)


@pytest.fixture
def name():
    return f"reach-{secrets.token_hex(6)}"


def test_container_is_found_by_its_name_whatever_its_id(opened, create, name):
    named = DockerContainer(container=name)
    first = create(name)
    assert opened.container(named).id == first
    opened.client.rename(first, f"{name}-old")
    second = create(name)
    assert opened.container(named).id == second


def test_service_is_found_by_its_labels_without_one_off_containers(opened, create, name):
    labels = {PROJECT: name, SERVICE: "db"}
    wanted = create(f"{name}-db-1", **labels, **{ONE_OFF: "False"})
    create(f"{name}-db-run", **labels, **{ONE_OFF: "True"})
    create(f"{name}-web-1", **{PROJECT: name, SERVICE: "web"})
    create(f"{name}-db-old", start=False, **labels)
    assert opened.container(DockerContainer(project=name, service="db")).id == wanted


def test_service_of_several_containers_is_an_error_with_their_names(opened, create, name):
    for number in (1, 2):
        create(f"{name}-db-{number}", **{PROJECT: name, SERVICE: "db"})
    with pytest.raises(ContainerError, match=f"runs several containers: {name}-db-1, {name}-db-2"):
        opened.container(DockerContainer(project=name, service="db"))


def test_container_that_does_not_run_is_an_error_with_its_state(opened, create, name):
    made = create(name, start=False)
    with pytest.raises(ContainerError, match=f"does not run: {name} is created") as told:
        opened.container(DockerContainer(container=name))
    assert told.value.retryable
    opened.client.start(made)
    opened.client.pause(made)
    with pytest.raises(ContainerError, match=f"{name} is paused"):
        opened.container(DockerContainer(container=name))


def test_missing_container_is_an_error_and_an_id_is_no_name(opened, create, name):
    made = create(name)
    for wrong in (f"{name}x", made, made[:12]):
        with pytest.raises(ContainerError, match="no such container"):
            opened.container(DockerContainer(container=wrong))
    with pytest.raises(ContainerError, match="no such container"):
        opened.container(DockerContainer(project=name, service="db"))


def certificate(name, issuer=None):
    """A key and a certificate for 127.0.0.1; an authority's without an issuer."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
    made = made.issuer_name(issuer[1].subject if issuer else subject)
    made = made.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    made = made.add_extension(x509.BasicConstraints(ca=not issuer, path_length=None), critical=True)
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    return key, made.sign(issuer[0] if issuer else key, hashes.SHA256())


@pytest.fixture
def tls(tmp_path):
    """The extra of a Connection, and the server's side, which asks for the client's certificate."""
    authority = certificate("authority")
    paths = {}
    all_of_them = {"ca": authority, "client": certificate("client", authority), "server": certificate("server", authority)}
    for name, (key, made) in all_of_them.items():
        paths[name], paths[f"{name} key"] = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        paths[name].write_bytes(made.public_bytes(Encoding.PEM))
        paths[f"{name} key"].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=paths["ca"])
    server.verify_mode = ssl.CERT_REQUIRED
    server.load_cert_chain(paths["server"], paths["server key"])
    return {"tls_ca_cert": str(paths["ca"]), "tls_client_cert": str(paths["client"]), "tls_client_key": str(paths["client key"])}, server


def test_engine_is_reached_by_tls_with_certificates_of_both_sides(engine, create, name, tls, tmp_path, monkeypatch):
    """Also where the environment has a proxy, and certificates of other authorities."""
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().openssl_cafile)
    extra, server = tls
    made = create(name)
    with CuttingProxy(engine, tmp_path, server) as proxy:
        with Engine(address_of(Endpoint("engine", "127.0.0.1", proxy.port, extra=extra))) as opened:
            assert opened.container(DockerContainer(container=name)).id == made
            assert run(opened, made, ["bash", "-c", "echo yes; echo no >&2; exit 3"]) == (3, b"yes\n")
        (tmp_path / "ca.pem").write_bytes(certificate("somebody else")[1].public_bytes(Encoding.PEM))
        with pytest.raises(ContainerError, match="does not answer as one"):
            Engine(address_of(Endpoint("engine", "127.0.0.1", proxy.port, extra=extra)))


def test_engine_that_does_not_answer_is_an_error(tmp_path):
    (tmp_path / "docker.sock").touch()
    with pytest.raises(ContainerError, match="does not answer as one") as told:
        Engine(address_of(Endpoint("engine", f"unix://{tmp_path}/docker.sock")))
    assert told.value.retryable
    with pytest.raises(ContainerError, match="does not answer as one"):
        Engine(address_of(Endpoint("engine", "127.0.0.1", 9, extra={"tls": False})))


# A proxy of the socket ----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs/how-to/containers.md"
DATABASES, SERVICES = (
    re.findall("`([A-Z]+ /[^`]+)`", table) for table in re.findall(r"(?:^\| `GET.*\n(?:\| `.*\n)*)", PAGE.read_text(), re.M)
)
"""The calls that the page says to permit, by what needs them."""


def connect_to(proxy):
    return {"engine": Endpoint("engine", proxy.address)}.__getitem__


@pytest.fixture
def permitting(engine, tmp_path):
    """A proxy that permits some calls only."""
    with ExitStack() as started:
        yield lambda calls: started.enter_context(FilteringProxy(engine, tmp_path, calls))


def test_databases_are_backed_up_with_the_calls_of_the_page(permitting, engine, create, name, postgres_container, each_way, tmp_path):
    proxy = permitting(DATABASES)
    reached = Reached(proxy.address)
    site = ReachedSite(postgres_container, tmp_path, reached, ("permitted",))
    try:
        site.create("permitted", "CREATE TABLE t AS SELECT 1 AS n")
        assert list(site.back_up(site.source("permitted")).iterdir())
        with Engine(address_of(Endpoint("engine", proxy.address))) as filtered:
            create(f"{name}-db-1", **{PROJECT: name, SERVICE: "db"})
            assert filtered.container(DockerContainer(project=name, service="db")).name == f"{name}-db-1"
    finally:
        reached.ways.close()
        site.clean()
    assert proxy.refused == []
    assert proxy.used == set(DATABASES), "the page permits more than is needed"


def test_services_are_stopped_and_started_with_the_calls_of_the_page(permitting, create, name, tmp_path, caplog):
    ends_later = ["sh", "-c", "[ -e /tmp/again ] && echo no second time && exit 3; touch /tmp/again; exec sleep infinity"]
    create(f"{name}-app-1", ends_later, **{PROJECT: name, SERVICE: "app"})
    create(f"{name}-other")
    proxy = permitting(SERVICES)
    given = {"compose": {"connection": "engine", "project": name, "stop": ["app"]}}
    given |= {"docker": {"connection": "engine", "containers": [f"{name}-other"]}, "timeout": "20s"}
    plan, journal = Services.model_validate(given), Journal(tmp_path / "journal.jsonl")
    services.stop(plan, connect_to(proxy), journal)
    with pytest.raises(ContainerError, match=r"1 container .* has ended, with status 3"):
        services.start(plan, connect_to(proxy), journal)
    assert "no second time" in caplog.text
    assert proxy.refused == []
    assert proxy.used == set(SERVICES), "the page permits more than is needed"


def test_call_that_a_proxy_refuses_is_named(permitting, create, name, tmp_path):
    create(name)
    proxy = permitting(DATABASES)
    plan = Services.model_validate({"docker": {"connection": "engine", "containers": [name]}, "timeout": "20s"})
    with pytest.raises(
        ContainerError, match=r"POST /containers/\w+/stop is not permitted here\. .* whether a proxy of the Engine's socket"
    ):
        services.stop(plan, connect_to(proxy), Journal(tmp_path / "journal.jsonl"))
    assert [call.rpartition("/")[2] for call in proxy.refused] == ["stop"]
