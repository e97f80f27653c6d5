"""One Airflow and one sample system for all tests of this folder, started when the first of them asks.

A test module that needs plans of its own, in place when Airflow starts, names them in ``SAMPLE_PLANS``: keyword
arguments of :class:`tests.support.system.SampleSystem` by plan name. Their systems are in the fixture ``sample_systems``: those
that a test's parameters name, or all of the module's if a test takes the fixture itself.
"""

import inspect
import shutil
import tempfile
from pathlib import Path

import pytest

from sandbox.servers import mailbox
from sandbox.system import System
from tests.support.quick_airflow import quick_airflow
from tests.support.system import SampleSystem


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.airflow)


@pytest.fixture(scope="session")
def mails():
    """An SMTP server that keeps what it gets; the Connection ``mail`` leads to it."""
    with mailbox() as box:
        yield box


@pytest.fixture(scope="session")
def system():
    """A small OpenManus, filled, with its plan ``openmanus``: two approvers, mail to ``mails``."""
    folder = Path(tempfile.mkdtemp(prefix="recovery-system-"))
    try:
        with System(folder / "system", scale=0.02, approvers=("alice", "bob"), more=mail_lines()) as running:
            running.fill()
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def sample_systems(request, system):
    """The sample systems that the test modules of this run ask for, by plan name; one set of each is already there."""
    wanted = {}
    for item in request.session.items:
        plans = getattr(item.module, "SAMPLE_PLANS", {})
        values = item.callspec.params.values() if hasattr(item, "callspec") else ()
        named = {value for value in values if isinstance(value, str)} & plans.keys()
        if "sample_systems" in inspect.signature(item.function).parameters:
            named = set(plans)
        wanted |= {name: plans[name] for name in sorted(named)}
    made = {}
    for name, settings in wanted.items():
        servers = {kind: getattr(system, kind) for kind in settings.get("servers", ())}
        rest = {key: value for key, value in settings.items() if key != "servers"}
        made[name] = SampleSystem(system.folder / "samples" / name, name, plans=system.plans, **{"more": mail_lines()} | rest, **servers)
        made[name].back_up()
    return made


def mail_lines():
    """Further lines of a plan, which let mails go to ``mails``."""
    return "alerts: {mail: {connection: mail, to: [oncall@example.org], sender: recovery@example.org}}\n"


@pytest.fixture(scope="session")
def airflow(system, sample_systems, mails):
    """Airflow with the DAGs of all plans, unpaused. Connections of databases can be changed through the API."""
    changeable = {}
    fixed = {"mail": {"conn_type": "smtp", "host": "127.0.0.1", "port": mails.port, "extra": {"disable_ssl": True, "disable_tls": True}}}
    for each in (system, *sample_systems.values()):
        for name, fields in each.connections().items():
            (changeable if name.endswith(("_postgres", "_mongo")) and each is not system else fixed)[name] = fields
    with quick_airflow(system.folder / "airflow", system.plans, fixed) as server:
        for name, fields in changeable.items():
            server.admin.put_connection(name, fields)
        dags = [f"{plan}_{family}" for plan in ("openmanus", *sample_systems) for family in ("backup", "restore")]
        server.admin.wait_dags(*dags)
        server.admin.unpause(*dags)
        yield server


@pytest.fixture
def operator(airflow):
    """Asks for things; no approver."""
    return airflow.user("operator")


@pytest.fixture
def alice(airflow):
    """An approver."""
    return airflow.user("alice")


@pytest.fixture
def bob(airflow):
    """The other approver."""
    return airflow.user("bob")


@pytest.fixture
def carol(airflow):
    """May only look."""
    return airflow.user("carol")


@pytest.fixture
def read_plans(airflow):
    """Let Airflow read the plan folder again at once, and wait for DAGs that a new plan has."""

    def read(*dag_ids):
        tokens = {dag["file_token"] for dag in airflow.admin.call("GET", "/dags", limit=200)["dags"]}
        for token in tokens:
            airflow.admin.call("PUT", f"/parseDagFile/{token}")
        airflow.admin.wait_dags(*dag_ids)
        airflow.admin.unpause(*dag_ids)

    return read
