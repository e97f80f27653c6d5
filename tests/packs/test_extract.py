"""What a pack must not do to what lies outside the folder that it is extracted to."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from recovery.common.errors import ArtifactError, ToolError
from recovery.common.held_folder import HeldFolder
from recovery.packs.extract import _Way, extract
from recovery.packs.pack import open_pack
from tests.support.packs import IDENTITY, hard_tree, pack, sealed_stream, unpack


def forged(tmp_path, *entries):
    """A pack of ``(name, type, link target)`` entries; files hold ``evil``."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, target in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, target, 0o755
            info.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(b"evil") if info.size else None)
    return sealed_stream(plain.getvalue(), tmp_path / "forged")


@pytest.fixture
def outside(tmp_path):
    """A folder with a secret beside the target of the extraction; nothing in it may change, or be read from it."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    yield folder
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"secret": "secret"}
    assert (folder / "secret").stat().st_nlink == 1


def test_member_with_the_longest_path_that_linux_takes_is_extracted(tmp_path):
    """What leads to the folder is longer than what the path has room for, once it is held by a descriptor."""
    name = "/".join(["n" * 250] * 16 + ["m" * 76, "x"])
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo(name))
    plain.seek(0)
    (tmp_path / "target").mkdir()
    with HeldFolder.open(tmp_path / "target") as held:
        extract(plain, held.through)
        assert held.has(name.encode())
    subprocess.run(["rm", "-rf", tmp_path / "target"], check=True)  # pytest could not


def test_way_to_a_deep_folder_is_looked_at_once_and_not_for_each_file_in_it(tmp_path, monkeypatch):
    """Whoever filled a deep folder with files could make a restore take hours of which the backup knew nothing."""
    looked = []
    look = _Way._look_above
    monkeypatch.setattr(_Way, "_look_above", lambda way, name: [looked.append(name), look(way, name)])
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(100):
            tar.addfile(tarfile.TarInfo(f"{'d/' * 50}{number}"))
    plain.seek(0)
    (tmp_path / "target").mkdir()
    with HeldFolder.open(tmp_path / "target") as held:
        extract(plain, held.through)
        assert held.has(f"{'d/' * 50}99".encode())
    assert len(looked) == 1


@pytest.mark.parametrize(
    "entry",
    [
        ("../outside/x", tarfile.REGTYPE, ""),
        ("..", tarfile.DIRTYPE, ""),
        ("a/../../outside/x", tarfile.REGTYPE, ""),
        ("{outside}/x", tarfile.REGTYPE, ""),
        ("a", tarfile.LNKTYPE, "../outside/secret"),
        ("a", tarfile.LNKTYPE, "{outside}/secret"),
        ("../outside/l", tarfile.SYMTYPE, "x"),
        ("dev", tarfile.CHRTYPE, ""),
        ("dev", tarfile.BLKTYPE, ""),
    ],
)
def test_extract_refuses_devices_and_members_that_leave_the_folder(tmp_path, outside, entry):
    one = forged(tmp_path, tuple(part.format(outside=outside) if isinstance(part, str) else part for part in entry))
    with pytest.raises(ArtifactError):
        unpack(tmp_path / "forged", [one], tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []


@pytest.mark.parametrize(("name", "link"), [("a..b", "/anywhere"), ("..a", "../../up"), ("...", "..")])
def test_extract_allows_any_link_target_and_dots_in_names(tmp_path, name, link):
    unpack(tmp_path / "forged", [forged(tmp_path, (name, tarfile.SYMTYPE, link))], tmp_path / "back")
    assert (tmp_path / "back" / name).readlink() == Path(link)


@pytest.mark.parametrize("target", ["../outside", "{outside}"])
def test_extract_refuses_a_member_below_a_link_of_the_same_pack(tmp_path, outside, target):
    link = ("way", tarfile.SYMTYPE, target.format(outside=outside))
    one = forged(tmp_path, link, ("way/x", tarfile.REGTYPE, ""))
    with pytest.raises((ArtifactError, ToolError)):
        unpack(tmp_path / "forged", [one], tmp_path / "back")


@pytest.mark.parametrize(
    "second",
    [
        ("way/x", tarfile.REGTYPE, ""),
        ("way/d", tarfile.DIRTYPE, ""),
        ("way/deep/x", tarfile.REGTYPE, ""),
        ("stolen", tarfile.LNKTYPE, "way/secret"),
    ],
)
def test_extract_refuses_paths_through_a_link_of_an_earlier_pack(tmp_path, outside, second):
    unpack(tmp_path / "forged", [forged(tmp_path, ("way", tarfile.SYMTYPE, "../outside"))], tmp_path / "back")
    assert (tmp_path / "back" / "way").is_symlink()
    with pytest.raises(ArtifactError, match="through the link"):
        unpack(tmp_path / "forged", [forged(tmp_path, second)], tmp_path / "back")
    assert not (tmp_path / "back" / "stolen").exists()


@pytest.mark.parametrize(
    "members",
    [
        [("d", tarfile.SYMTYPE, "way"), ("d/x", tarfile.REGTYPE, "")],
        [("d", tarfile.SYMTYPE, "way"), ("./d/./x", tarfile.REGTYPE, "")],
        [("d", tarfile.SYMTYPE, "way"), ("d//x", tarfile.FIFOTYPE, "")],
        [("d", tarfile.SYMTYPE, "way"), ("d/deep", tarfile.DIRTYPE, "")],
        [("d", tarfile.SYMTYPE, "way"), ("stolen", tarfile.LNKTYPE, "d/secret")],
        [("d", tarfile.LNKTYPE, "way"), ("d/x", tarfile.REGTYPE, "")],
        [("d/a", tarfile.REGTYPE, ""), ("d", tarfile.SYMTYPE, "way"), ("d/x", tarfile.REGTYPE, "")],
        [("d/a", tarfile.REGTYPE, ""), ("d", tarfile.SYMTYPE, "way"), ("stolen", tarfile.LNKTYPE, "d/secret")],
        [("d", tarfile.DIRTYPE, ""), ("d", tarfile.SYMTYPE, "way"), ("d/x", tarfile.REGTYPE, "")],
        [("a", tarfile.DIRTYPE, ""), ("a/d", tarfile.SYMTYPE, "../way"), ("a/d/deep/x", tarfile.REGTYPE, "")],
    ],
)
def test_extract_refuses_paths_through_a_chain_of_links_over_two_packs(tmp_path, outside, members):
    """The second pack's own link is not on the disk yet when its next member is looked at: tar reads it from the pipe."""
    unpack(tmp_path / "forged", [forged(tmp_path, ("way", tarfile.SYMTYPE, "../outside"))], tmp_path / "back")
    with pytest.raises(ArtifactError, match="through the link"):
        unpack(tmp_path / "forged", [forged(tmp_path, *members)], tmp_path / "back")
    assert not (tmp_path / "back" / "stolen").exists()


def test_extract_of_a_folder_does_not_follow_a_link_of_the_same_name(tmp_path, outside):
    outside.chmod(0o700)
    unpack(tmp_path / "forged", [forged(tmp_path, ("way", tarfile.SYMTYPE, "../outside"))], tmp_path / "back")
    unpack(tmp_path / "forged", [forged(tmp_path, ("way", tarfile.DIRTYPE, ""))], tmp_path / "back")
    assert outside.stat().st_mode & 0o777 == 0o700


def test_extract_of_a_file_does_not_follow_a_link_of_the_same_name(tmp_path, outside):
    unpack(tmp_path / "forged", [forged(tmp_path, ("way", tarfile.SYMTYPE, "../outside/secret"))], tmp_path / "back")
    unpack(tmp_path / "forged", [forged(tmp_path, ("way", tarfile.REGTYPE, ""))], tmp_path / "back")
    assert (tmp_path / "back" / "way").read_text() == "evil"


def test_extract_of_selected_members_writes_no_other_members(tmp_path):
    packs, _ = pack(hard_tree(tmp_path / "root"), tmp_path / "out")
    (tmp_path / "back").mkdir()
    with (tmp_path / "out" / packs[0].file).open("rb") as source, open_pack(source, packs[0], [IDENTITY]) as reader:
        extract(reader, tmp_path / "back", lambda info: info.name == "sub/Zoë")
    assert [path.name for path in (tmp_path / "back").rglob("*") if path.is_file()] == ["Zoë"]
