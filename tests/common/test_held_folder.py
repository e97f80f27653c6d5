# ruff: noqa: PTH208

import errno
import fcntl
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from recovery.common.held_folder import HeldFolder, open_file


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "real/file").touch()
    return tmp_path


def test_held_folder_is_closed_at_the_end_of_a_block(folder):
    with HeldFolder.open(folder / "real") as held:
        descriptor = held.fileno()
        held.at(b"inner/x")
        near = {int(name) for name in os.listdir("/proc/self/fd") if Path(f"/proc/self/fd/{name}").resolve() == folder / "real/inner"}
    for each in (descriptor, *near):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(each)
    assert near


def test_folder_is_held_on_a_file_system_that_has_no_extended_attributes(folder, monkeypatch):
    def unknown(*_, **__):
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "listxattr", unknown)
    with HeldFolder.open(folder / "real") as real:
        assert sorted(real.names()) == [b"file", b"inner"]


def leased(path, gives_back):
    """A process that has a lease on a file, and gives it back on demand or not."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGIO, (lambda *_: os._exit(0)) if gives_back else signal.SIG_IGN)
        fcntl.fcntl(os.open(path, os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
        os.write(theirs, b"has it")
        time.sleep(60)
        os._exit(0)
    os.read(ours, 6)
    return pid


@pytest.mark.parametrize("gives_back", [True, False])
def test_file_on_which_another_program_has_a_lease_is_opened_once_it_gives_it_back(folder, gives_back):
    pid = leased(folder / "real/file", gives_back)
    try:
        with nullcontext() if gives_back else pytest.raises(BlockingIOError, match="does not give it back"):
            os.close(open_file(os.fsencode(folder / "real/file")))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
