"""Packs of small trees, made and read back with the real stream."""

# pathlib has no paths of bytes.
# ruff: noqa: PTH123

import hashlib
import os
from pathlib import Path

import pyrage
import zstandard

from recovery.common.held_folder import HeldFolder
from recovery.packs.artifact import Artifact, members_below
from recovery.packs.extract import extract
from recovery.packs.pack import Pack, open_pack, read_members, seal

IDENTITY = pyrage.x25519.Identity.generate()
RECIPIENT = str(IDENTITY.to_public())
HARD_NAMES = [
    b"plain", b"with space", b"new\nline", b"\xff\xfe not utf-8", "Zoë".encode(), b"-rf", b"--checkpoint-action=exec=x", b"*", b"a\\nb",
    b"$(touch x)", b"'quoted\"", b"L" * 255, b".hidden", b"tab\there", b"@file", b"percent%41", b"~root", b"\x01\x7f",
]  # fmt: skip


def hard_tree(root: Path) -> Path:
    """Names that are hard to handle, an empty folder, and a link that leads nowhere."""
    (root / "sub" / "empty").mkdir(parents=True)
    for number, name in enumerate(HARD_NAMES):
        with open(os.fsencode(root / "sub") + b"/" + name, "wb") as out:
            out.write(b"x" * 1000 * number)
    (root / "link").symlink_to("/nowhere")
    return root


def pack(root, out, members=None, pack_size=1 << 30, live=False, name="tree", recipients=(RECIPIENT,)):
    out.mkdir(exist_ok=True)
    artifact = Artifact(name=name, root=str(root), bytes=0, live=live, listing="x" if live else None)
    reach = HeldFolder.open(root)
    return seal(artifact, members or members_below(root), out, reach=reach, recipients=recipients, pack_size=pack_size, level=1)


def read(out, one: Pack, identity=IDENTITY):
    with (out / one.file).open("rb") as source, open_pack(source, one, [identity]) as reader:
        return [(info.name, data.read() if data else None) for info, data in read_members(reader)]


def unpack(out, packs, folder, identity=IDENTITY):
    folder.mkdir(exist_ok=True)
    for one in packs:
        with (out / one.file).open("rb") as source, open_pack(source, one, [identity]) as reader:
            extract(reader, folder)


def compressed(plain: bytes) -> bytes:
    """A frame with a checksum."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(plain)


def sealed_stream(plain: bytes, out: Path, inner: bytes | None = None) -> Pack:
    """What somebody who knows only the recipient can make: any content, whole in itself."""
    stored = pyrage.encrypt(compressed(plain) if inner is None else inner, [IDENTITY.to_public()])
    out.mkdir(exist_ok=True)
    (out / "forged.000.tar.zst.age").write_bytes(stored)
    return Pack(
        file="forged.000.tar.zst.age",
        raw_bytes=len(plain),
        stored_bytes=len(stored),
        sha256=hashlib.sha256(stored).hexdigest(),
    )
