import os
import random
import signal
from pathlib import Path

import pyrage
import pytest

from recovery.common.errors import ArtifactError, ToolError
from recovery.common.held_folder import HeldFolder
from recovery.packs.artifact import Artifact, members_below
from recovery.packs.pack import open_pack, seal
from sandbox.bench.processes import below
from tests.support.packs import IDENTITY, compressed, sealed_stream


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A pack of 8 MiB that does not compress, so that no pipe holds all of it."""
    folder = tmp_path_factory.mktemp("sealed")
    (folder / "root").mkdir()
    (folder / "root" / "noise").write_bytes(os.urandom(8 << 20))
    artifact = Artifact(name="noise", root=str(folder / "root"), bytes=8 << 20)
    reach, recipients = HeldFolder.open(folder / "root"), [str(IDENTITY.to_public())]
    packs, _ = seal(artifact, members_below(folder / "root"), folder, reach=reach, recipients=recipients, pack_size=1 << 30, level=1)
    return folder / packs[0].file, packs[0]


def helpers() -> list[int]:
    """Processes below this one that unseal."""
    return [pid for pid in below(os.getpid()) if b"decrypt_worker.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def read(sealed, identities, meanwhile=lambda *helpers: None) -> int:
    """Read a pack, and do something to its helper after the first bytes; the length of what came."""
    path, pack = sealed
    with path.open("rb") as source, open_pack(source, pack, identities) as reader:
        size = len(reader.read(512))
        meanwhile(*helpers())
        while data := reader.read(1 << 20):
            size += len(data)
        return size


def test_open_pack_decrypts_with_any_of_several_identities(sealed):
    other = pyrage.x25519.Identity.generate()
    assert read(sealed, [other, IDENTITY]) == sealed[1].raw_bytes
    with pytest.raises(ArtifactError, match="does not open"):
        read(sealed, [other])


def test_decrypt_worker_killed_midway_is_a_retryable_error_and_not_damage(sealed):
    with pytest.raises(ToolError, match="killed by signal 9") as failed:
        read(sealed, [IDENTITY], lambda helper: os.kill(helper, signal.SIGKILL))
    assert failed.value.retryable


def test_decrypt_worker_has_no_secret_in_its_arguments_and_ends_with_its_reader(sealed):
    def look(helper):
        assert b"AGE-SECRET-KEY" not in Path(f"/proc/{helper}/cmdline").read_bytes()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read(sealed, [IDENTITY], look)
    assert helpers() == []


BLOCKS = random.Random(3).randbytes(300_000) + bytes(600_000) + b"text" * 1000
"""Blocks of zstd that are stored, repeated, and compressed."""
FRAME = compressed(BLOCKS)


def opened(inner, tmp_path) -> int:
    one = sealed_stream(BLOCKS, tmp_path, inner)
    return read((tmp_path / one.file, one), [IDENTITY])


def test_decrypt_worker_reads_a_frame_to_its_end(tmp_path):
    assert opened(FRAME, tmp_path) == len(BLOCKS)


@pytest.mark.parametrize("cut", [0, 1, 5, 12, 1000, 131_080, 131_090, 250_000, 300_100, *range(len(FRAME) - 12, len(FRAME))])
def test_decrypt_worker_refuses_a_frame_truncated_before_encryption(tmp_path, cut):
    """age finds it whole, and of the last cuts all data comes out: only the checksum is not there."""
    with pytest.raises(ArtifactError, match=r"can't be read \(ZstdError"):
        opened(FRAME[:cut], tmp_path)


@pytest.mark.parametrize("position", [0, 4, 5, 6, 1000, 200_000, len(FRAME) - 30, len(FRAME) - 4, len(FRAME) - 1])
def test_decrypt_worker_refuses_a_bit_flipped_before_encryption(tmp_path, position):
    inner = bytearray(FRAME)
    inner[position] ^= 4
    with pytest.raises(ArtifactError, match=r"can't be read \(ZstdError"):
        opened(bytes(inner), tmp_path)
