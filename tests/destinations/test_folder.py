import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from recovery.common.errors import DestinationError
from recovery.destinations import make_destination
from recovery.destinations.base import Missing, Refused
from recovery.destinations.folder import Folder
from recovery.plan.model import Destination as Settings
from tests.support.attacker import attacker, state, swapping
from tests.support.file_zoo import listen, open_up
from tests.support.sets import keys_of, run_python

MIB = 1 << 20


@pytest.fixture
def destination(local):
    return local


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(20 * MIB))
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def everything(root):
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


PUT = """
    import os, resource, signal, sys
    from pathlib import Path
    from recovery.destinations.folder import Folder
    root, path, sha256 = sys.argv[1:4]
    {before}
    Folder("local", Path(root)).put(Path(path), "p/s/x", sha256, {sent})
"""


def test_put_killed_midway_leaves_only_a_partial_file_that_sweep_removes(destination, file):
    ended = run_python(
        PUT.format(before="", sent="lambda count: os.kill(os.getpid(), signal.SIGKILL)"), destination.root, file, sha256(file)
    )
    assert ended.returncode == -9
    [left] = everything(destination.root)
    assert left.startswith("p/s/.partial-")
    assert keys_of(destination) == set()
    with pytest.raises(Missing):
        destination.read("p/s/x", MIB)
    destination.sweep("p/")
    assert list((destination.root / "p").iterdir()) == [], "the empty folder goes too"
    assert destination.put(file, "p/s/x", sha256(file), lambda count: None)
    assert everything(destination.root) == {"p/s/x"}


def test_sweep_keeps_the_partial_file_of_a_running_writer(destination):
    partial = destination.root / "p/.partial-1"
    partial.parent.mkdir()
    with partial.open("wb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        destination.sweep("p/")
        assert partial.exists()
    destination.sweep("p/")
    assert not partial.exists()


def test_sweep_beside_writers_leaves_their_folders_or_they_make_them_again(destination, tmp_path):
    """Folders are made one after another, and are empty until the first file: a sweep of another run may meet each of these moments."""
    path = tmp_path / "small"
    path.write_bytes(b"content")
    keys = [f"p/{number}/deep/er/x" for number in range(150)]
    done = threading.Event()

    def sweep():
        while not done.is_set():
            destination.sweep("p/")

    with ThreadPoolExecutor(3) as pool:
        sweeping = pool.submit(sweep)
        try:
            assert all(pool.map(lambda key: destination.put(path, key, sha256(path), lambda count: None), keys))
        finally:
            done.set()
        sweeping.result()
    assert everything(destination.root) == set(keys)


def test_put_makes_a_folder_again_that_a_sweep_removed_before_the_first_byte(destination, file, monkeypatch):
    real, removed = destination._make_folder, []

    def made_and_swept(root, folder):
        real(root, folder)
        if not removed and folder == b"p/s":
            removed.append(folder)
            destination.sweep("p/")
            assert not (destination.root / "p/s").exists()

    monkeypatch.setattr(destination, "_make_folder", made_and_swept)
    assert destination.put(file, "p/s/x", sha256(file), lambda count: None)
    assert everything(destination.root) == {"p/s/x"}


@pytest.mark.parametrize("at", ["what is there", "what was sent"])
def test_put_does_not_read_a_file_that_somebody_lengthens_to_its_end(destination, file, monkeypatch, at):
    """A hole costs who writes there nothing, and would be read for years."""
    digest, look, read = sha256(file), os.fstat, []
    if at == "what is there":
        destination.put(file, "p/s/x", digest, lambda count: None)

    class Counted:
        def __init__(self):
            self._real = hashlib.new("sha256")

        def update(self, data):
            read.append(len(data))
            self._real.update(data)

        def hexdigest(self):
            return self._real.hexdigest()

    def lengthen(descriptor):
        found = look(descriptor)
        for path in [*destination.root.glob("p/s/.partial-*"), *destination.root.glob("p/s/x")]:
            if not (at == "what was sent" and path.name == "x"):
                os.truncate(path, 200 * MIB)
        return found

    monkeypatch.setattr(hashlib, "sha256", Counted)
    monkeypatch.setattr(os, "fstat", lengthen)
    with pytest.raises(DestinationError, match="is not what was sent"):
        destination.put(file, "p/s/x", digest, lambda count: None)
    assert max(read) <= 8 * MIB
    assert sum(read) < 100 * MIB


@pytest.mark.parametrize("removed", ["folder", "file"])
def test_put_ends_with_an_error_when_somebody_removes_every_new_file_or_folder(destination, file, monkeypatch, removed):
    real, lock = destination._make_folder, fcntl.flock

    def made_and_removed(root, folder):
        real(root, folder)
        if removed == "folder" and folder == b"p/s":
            (destination.root / "p/s").rmdir()

    def removed_and_locked(out, how):
        for partial in destination.root.glob("p/s/.partial-*"):
            partial.unlink()
        lock(out, how)

    monkeypatch.setattr(destination, "_make_folder", made_and_removed)
    monkeypatch.setattr(fcntl, "flock", removed_and_locked)
    with pytest.raises(DestinationError, match=f"Somebody removes what is written to {destination.root}/p/s") as error:
        destination.put(file, "p/s/x", sha256(file), lambda count: None)
    assert error.value.retryable
    assert everything(destination.root) == set()


def test_sweep_ignores_a_partial_file_that_disappears_meanwhile(destination, monkeypatch):
    partial = destination.root / "p/.partial-1"
    partial.parent.mkdir()
    partial.touch()
    real = destination._walk

    def walk(prefix):
        for path in real(prefix):
            partial.unlink()
            yield path

    monkeypatch.setattr(destination, "_walk", walk)
    destination.sweep("p/")


def test_put_fails_when_data_is_damaged_while_written(destination, file, monkeypatch):
    real = os.sendfile

    def damaging(out, source, offset, count):
        done = real(out, source, offset, count)
        if done:
            os.pwrite(out, b"\x00\x01\x02\x03", 5)
        return done

    monkeypatch.setattr(os, "sendfile", damaging)
    with pytest.raises(DestinationError, match="is not what was sent"):
        destination.put(file, "p/s/x", sha256(file), lambda count: None)
    assert everything(destination.root) == set()


def test_put_above_the_file_size_limit_reports_missing_room_and_leaves_no_file(destination, file):
    before = f"resource.setrlimit(resource.RLIMIT_FSIZE, ({10 * MIB}, {10 * MIB}))"
    ended = run_python(PUT.format(before=before, sent="lambda count: None"), destination.root, file, sha256(file))
    assert "DestinationError: Could not write p/s/x" in ended.stderr
    assert "Make room there" in ended.stderr
    assert everything(destination.root) == set()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_put_on_a_full_disk_reports_missing_room_and_leaves_no_file(tmp_path, file):
    root = tmp_path / "small"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", root], check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        destination = Folder("local", root)
        with pytest.raises(DestinationError, match=r"No space left on device.*Make room") as caught:
            destination.put(file, "p/s/x", sha256(file), lambda count: None)
        assert caught.value.retryable
        assert everything(root) == set()
    finally:
        subprocess.run(["umount", root], check=True)


def refuses_everything(destination, file, words):
    for use in (
        lambda: destination.put(file, "p/s/x", sha256(file), lambda count: None),
        lambda: destination.read("p/s/x", MIB),
        lambda: keys_of(destination),
        lambda: list(destination.folders("p/")),
        lambda: destination.delete(["p/s/x"]),
        lambda: destination.sweep("p/"),
        destination.now,
        destination.free_space,
    ):
        with pytest.raises(Refused, match=words):
            use()


def test_folder_with_a_missing_root_refuses_every_call_and_does_not_create_the_root(tmp_path, file):
    destination = Folder("local", tmp_path / "unmounted")
    refuses_everything(destination, file, "is not there")
    assert not destination.root.exists()


def with_mount(root, mount):
    return make_destination("local", Settings(folder=root, mount=mount, keep_last=1), None)


def test_folder_without_its_mount_refuses_every_call_and_writes_nothing(tmp_path, file):
    root = tmp_path / "disk/sets"
    root.mkdir(parents=True)
    for mount in (root, root.parent):
        refuses_everything(with_mount(root, mount), file, f"Nothing is mounted at {mount}, so")
    assert everything(root) == set()
    for destination in (with_mount(root, "/"), with_mount(root, None)):
        destination.put(file, "p/s/x", sha256(file), lambda count: None)
        assert keys_of(destination) == {"p/s/x"}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_folder_refuses_every_call_after_its_mount_was_unmounted(tmp_path, file):
    root = tmp_path / "disk/sets"
    root.mkdir(parents=True)
    destination = with_mount(root, root.parent)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", root.parent], check=False, capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        root.mkdir()
        destination.put(file, "p/s/x", sha256(file), lambda count: None)
        assert keys_of(destination) == {"p/s/x"}
    finally:
        subprocess.run(["umount", root.parent], check=True)
    refuses_everything(destination, file, "Nothing is mounted")
    assert everything(root) == set()


@pytest.mark.parametrize("key", ["../x", "p/../../x", "/etc/x"])
def test_put_refuses_a_key_outside_the_root(destination, file, key):
    with pytest.raises(Refused, match="is not a key"):
        destination.put(file, key, sha256(file), lambda count: None)


def test_read_refuses_folders_and_pipes_without_a_wait(destination):
    (destination.root / "p/folder").mkdir(parents=True)
    os.mkfifo(destination.root / "p/pipe")
    for name, words in (("folder", "Is a directory"), ("pipe", "It is not a file")):
        with pytest.raises(DestinationError, match=words):
            destination.read(f"p/{name}", MIB)


def test_put_creates_files_and_folders_that_only_the_owner_can_read(destination, file):
    destination.put(file, "p/s/x", sha256(file), lambda count: None)
    assert (destination.root / "p/s/x").stat().st_mode & 0o777 == 0o600
    assert (destination.root / "p").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_put_into_a_folder_without_write_permission_is_refused_with_advice(destination, file):
    destination.root.chmod(0o500)
    try:
        with pytest.raises(Refused, match="Give the worker's user the right"):
            destination.put(file, "p/s/x", sha256(file), lambda count: None)
    finally:
        destination.root.chmod(0o700)


# Who else may write there -----------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    """A folder that looks like a set's and is none; nothing in it may change, or be read from it."""
    folder = tmp_path / "outside"
    (folder / "s").mkdir(parents=True)
    for name in ("x", ".partial-1", "s/x", "s/.partial-1"):
        (folder / name).write_text("secret")
    before = state(folder)
    yield folder
    assert state(folder) == before


LED_AWAY = "symbolic link is in the place of something else"


@pytest.mark.parametrize("place", ["p", "p/s"])
def test_folder_refuses_a_link_in_the_place_of_a_folder(destination, file, outside, place):
    destination.put(file, "p/s/x", sha256(file), lambda count: None)
    (destination.root / place).rename(destination.root / "away")
    (destination.root / place).symlink_to(outside)
    for use in (
        lambda: destination.read("p/s/x", MIB),
        lambda: list(destination.list("p/s/")),
        lambda: destination.put(file, "p/s/y", sha256(file), lambda count: None),
        lambda: destination.delete(["p/s/x"]),
        lambda: destination.sweep("p/s/"),
        lambda: list(destination.folders("p/s/")),
    ):
        with pytest.raises(Refused, match=LED_AWAY):
            use()


def test_read_refuses_a_link_and_put_replaces_it(destination, file, outside):
    (destination.root / "p/s").mkdir(parents=True)
    (destination.root / "p/s/x").symlink_to(outside / "x")
    with pytest.raises(Refused, match=LED_AWAY):
        destination.read("p/s/x", MIB)
    assert destination.put(file, "p/s/x", sha256(file), lambda count: None)
    assert not (destination.root / "p/s/x").is_symlink()
    assert sha256(destination.root / "p/s/x") == sha256(file)


@pytest.mark.parametrize("link", ["p", "p/s"])
@pytest.mark.parametrize("tries", [pytest.param(10, id="10 tries"), pytest.param(300, id="300 tries", marks=pytest.mark.long)])
def test_deletion_while_a_folder_is_exchanged_for_a_link_deletes_nothing_elsewhere(destination, outside, link, tries):
    if os.geteuid():
        pytest.skip("changes to another user")
    open_up(destination.root)
    destination.root.chmod(0o777)
    for _ in range(tries):
        for name in ("x", "kept", ".partial-1", "s/x", "s/kept", "s/.partial-1"):
            (destination.root / "p" / name).parent.mkdir(parents=True, exist_ok=True)
            (destination.root / "p" / name).touch()
        (destination.root / "p").chmod(0o777)
        with attacker(swapping(destination.root / link, outside)):
            for _ in range(50):
                with suppress(DestinationError):
                    destination.delete(["p/x", "p/s/x"])
                    destination.sweep("p/s/")
        for path in destination.root.rglob("*"):
            if path.is_symlink():
                path.unlink()
        shutil.rmtree(destination.root / "p", ignore_errors=True)


# Somebody else who may write there ----------------------------------------------------------------------------------


@pytest.fixture
def deep(destination):
    """Folders in folders that no stack holds, and that pytest could not remove."""
    (destination.root / "p/s").mkdir(parents=True)
    (destination.root / "p/s/x").touch()
    here = os.open(destination.root / "p/s", os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    yield
    subprocess.run(["rm", "-rf", destination.root], check=True)


@pytest.mark.usefixtures("deep")
def test_folders_deeper_than_any_set_has_are_left_alone(destination):
    assert keys_of(destination) == {"p/s/x"}
    destination.sweep("p/")
    assert (destination.root / "p/s/d/d/d/d").is_dir()


def test_sweep_removes_links_pipes_and_sockets_with_names_of_partial_files(destination, tmp_path):
    folder = destination.root / "p"
    folder.mkdir()
    (tmp_path / "other").write_text("kept")
    (folder / "x").touch()
    (folder / ".partial-link").symlink_to(tmp_path / "other")
    os.mkfifo(folder / ".partial-pipe")
    with listen(folder / ".partial-socket"):
        destination.sweep("p/")
    assert [path.name for path in folder.iterdir()] == ["x"]
    assert (tmp_path / "other").read_text() == "kept"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="has any time")
@pytest.mark.parametrize(("time", "year"), [(1 << 40, 9999), (-(1 << 40), 1970)])
def test_list_of_a_file_with_a_time_that_no_calendar_has(time, year):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as root:
        path = Path(root, "x")
        path.touch()
        os.utime(path, (0, time))
        [entry] = Folder("local", Path(root)).list("")
        assert entry.modified.year == year


def test_error_has_the_name_of_an_entry_on_one_line(destination):
    name = "p/a\nERROR \udcff\x1b[31m"
    (destination.root / name).mkdir(parents=True)
    with pytest.raises(DestinationError) as error, destination.open(name):
        pass
    assert r"Could not read p/a\nERROR \xff\x1b[31m at" in error.value.what
