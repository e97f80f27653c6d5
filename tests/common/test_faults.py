import logging

import pytest

from recovery.common.errors import DestinationError, RestoreError
from recovery.common.faults import Faults


def test_faults_keeps_errors_in_order_and_every_block_runs(caplog):
    faults, done = Faults(), []
    for name, error in (("one", RestoreError("It is full.", "Make room.")), ("two", None), ("three", KeyError("x"))):
        with faults.noted(name):
            done.append(name)
            if error:
                raise error
    assert done == ["one", "two", "three"]
    assert faults.sentences == ["one: It is full. Next: Make room.", "three: 'x'"]
    assert [(record.levelno, bool(record.exc_info)) for record in caplog.records] == [(logging.ERROR, False), (logging.ERROR, True)]
    assert (bool(faults), faults.retryable) == (True, False)


def test_faults_is_retryable_if_any_fault_is_retryable():
    faults = Faults(lambda what, error: f"{what} failed")
    assert not faults
    with faults.noted("upload"):
        raise DestinationError("It does not answer.", "Wait.")
    with faults.noted("prune"):
        raise RestoreError("It is closed.", "Open it.")
    assert (faults.sentences, faults.retryable) == (["upload failed", "prune failed"], True)


def test_faults_does_not_catch_a_keyboard_interrupt():
    faults = Faults()
    with pytest.raises(KeyboardInterrupt), faults.noted("one"):
        raise KeyboardInterrupt
    assert not faults
