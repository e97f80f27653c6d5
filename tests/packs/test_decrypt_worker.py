import os
import signal
from pathlib import Path

import pyrage
import pytest

from recovery.common.errors import ArtifactError, ToolError
from recovery.packs.artifact import Artifact, members_below
from recovery.packs.pack import open_pack, seal
from sandbox.bench.processes import below

IDENTITY = pyrage.x25519.Identity.generate()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A pack of 8 MiB that does not compress, so that no pipe holds all of it."""
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "root").mkdir()
    (folder / "root" / "noise").write_bytes(os.urandom(8 << 20))
    artifact = Artifact(name="noise", root=str(folder / "root"), bytes=8 << 20)
    packs, _ = seal(artifact, members_below(folder / "root"), folder, recipients=[str(IDENTITY.to_public())], pack_size=1 << 30, level=1)
    return folder / packs[0].file, packs[0]


def helpers() -> list[int]:
    """Processes below this one that unseal."""
    return [pid for pid in below(os.getpid()) if b"recovery.packs.decrypt_worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def read(sealed, identities, meanwhile=lambda helper: None) -> int:
    """Read a pack, and do something to its helper after the first bytes; the length of what came."""
    path, pack = sealed
    with path.open("rb") as source, open_pack(source, pack, identities) as reader:
        size = len(reader.read(512))
        meanwhile(*helpers())
        while data := reader.read(1 << 20):
            size += len(data)
        return size


def test_any_of_several_identities_opens(sealed):
    other = pyrage.x25519.Identity.generate()
    assert read(sealed, [other, IDENTITY]) == sealed[1].raw_bytes
    with pytest.raises(ArtifactError, match="does not open"):
        read(sealed, [other])


def test_a_kill_in_the_middle_is_not_taken_for_damage_and_may_be_tried_again(sealed):
    with pytest.raises(ToolError, match="killed by signal 9") as failed:
        read(sealed, [IDENTITY], lambda helper: os.kill(helper, signal.SIGKILL))
    assert failed.value.retryable


def test_its_arguments_hold_no_secret_and_it_ends_with_its_reader(sealed):
    def look(helper):
        assert b"AGE-SECRET-KEY" not in Path(f"/proc/{helper}/cmdline").read_bytes()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(sealed, [IDENTITY], look)
    assert helpers() == []
