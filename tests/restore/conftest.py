import pytest

from tests.support.system import SampleSystem


@pytest.fixture
def whole(tmp_path, postgres_server, mongo_server):
    """A damaged system with databases, and with a set of before."""
    made = SampleSystem(tmp_path / "whole", "whole", postgres=postgres_server, mongo=mongo_server).backed_up_and_damaged()
    yield made
    made.drop()
