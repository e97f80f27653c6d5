"""A restore asks its sources for the duties that its method needs, before anything is touched."""

import pytest

from recovery.common.errors import RecoveryError
from recovery.restore import choose_set, preflight
from recovery.sources import registry
from recovery.sources.base import Restorer
from tests.support.restore_driver import assert_unchanged, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


class OnlySwapped:
    """A source that has every duty of a ``Restorer``, and no way to restore in place."""

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)


Restorer.register(OnlySwapped)


def test_preflight_refuses_in_place_for_kind_of_source_without_in_place_support(tmp_path, monkeypatch):
    system = SampleSystem(tmp_path / "small", "small").backed_up_and_damaged()
    make = registry.make

    def made(plan, source_id, *rest):
        source = make(plan, source_id, *rest)
        return OnlySwapped(source) if source_id == "config.settings" else source

    monkeypatch.setattr(registry, "make", made)
    run = system.restore()
    choose_set.choose(run, system.ask(run, method="in place"))
    with pytest.raises(RecoveryError, match=r"config\.settings can't be restored in place"):
        preflight.preflight(run)
    teardown(run)
    assert_unchanged(system, run)
