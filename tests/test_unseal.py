import os
import signal
from pathlib import Path

import pyrage
import pytest

from recovery.artifact import members_below, open_pack, seal
from recovery.components.base import Artifact
from recovery.errors import ArtifactError, ToolError
from sandbox.bench_processes import below

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
    return [pid for pid in below(os.getpid()) if b"recovery.unseal" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_kill_in_the_middle_is_not_taken_for_damage_and_may_be_tried_again(sealed):
    path, pack = sealed
    with pytest.raises(ToolError) as failed:
        with path.open("rb") as source, open_pack(source, pack, [IDENTITY]) as reader:
            reader.read(512)
            (helper,) = helpers()
            os.kill(helper, signal.SIGKILL)
            while reader.read(1 << 20):
                continue
    assert failed.value.retryable
    assert "killed by signal 9" in str(failed.value)


def test_no_secret_is_in_its_arguments_and_it_ends_with_the_block(sealed):
    path, pack = sealed
    with pytest.raises(ZeroDivisionError):
        with path.open("rb") as source, open_pack(source, pack, [IDENTITY]) as reader:
            reader.read(512)
            (helper,) = helpers()
            assert b"AGE-SECRET-KEY" not in Path(f"/proc/{helper}/cmdline").read_bytes()
            raise ZeroDivisionError
    assert helpers() == []


def test_several_identities_are_tried(sealed):
    path, pack = sealed
    other = pyrage.x25519.Identity.generate()
    with path.open("rb") as source, open_pack(source, pack, [other, IDENTITY]) as reader:
        while reader.read(1 << 20):
            continue
    with pytest.raises(ArtifactError, match="does not open"):
        with path.open("rb") as source, open_pack(source, pack, [other]) as reader:
            reader.read(1)
