"""Where folders lie, by what Linux says of mounts: the same place is noticed however it is mounted, and no two places are taken for one."""

from pathlib import Path

import pytest

from recovery.plan.location import overlap
from recovery.sources.trees import filesystem

MOUNTS = rb"""
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:52 / /srv/uploads rw,relatime shared:2 - nfs4 nas:/export/uploads rw,vers=4.2,addr=10.0.0.9
31 21 0:52 / /srv/docs rw,relatime shared:3 - nfs4 nas:/export/docs rw,vers=4.2,addr=10.0.0.9
32 21 0:52 / /mnt/year rw,relatime shared:2 - nfs4 nas:/export/uploads/2026 rw,vers=4.2,addr=10.0.0.9
33 21 0:52 / /mnt/again rw,relatime shared:2 - nfs4 nas:/export/uploads rw,vers=4.2,addr=10.0.0.9
34 21 0:52 / /mnt/all\040of\040it rw,relatime - nfs4 [fd00::9]:/export rw,vers=4.2,addr=fd00::9
35 21 0:53 / /mnt/other rw,relatime - nfs other:/export/uploads rw,vers=3,addr=10.0.0.8
36 21 0:54 / /mnt/bare rw,relatime - nfs nas:vol1 rw,vers=3,addr=10.0.0.7
37 21 0:54 / /mnt/bare2 rw,relatime - nfs nas:vol2 rw,vers=3,addr=10.0.0.7
40 21 0:60 /uploads /smb/uploads rw,relatime - cifs //nas/share rw,vers=3.1.1
41 21 0:60 /docs /smb/docs rw,relatime - cifs //nas/share rw,vers=3.1.1
42 21 0:60 /uploads/2026 /smb/year rw,relatime - cifs //nas/share rw,vers=3.1.1
50 21 0:61 / /ssh/one rw,relatime - fuse.sshfs user@nas:/one rw
51 21 0:62 / /ssh/two rw,relatime - fuse.sshfs user@nas:/two rw
52 21 0:61 /below /ssh/bound rw,relatime - fuse.sshfs user@nas:/one rw
60 21 0:63 / /lower rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b
61 21 0:63 /srv /bound rw,relatime - overlay overlay rw,lowerdir=/a,upperdir=/b
""".strip()


@pytest.fixture
def mounted(monkeypatch):
    """These mounts instead of this machine's, for paths that need not exist."""
    known = list(filesystem.read_mounts(MOUNTS))

    def mount(folder: Path) -> filesystem.Mount:
        return max((each for each in known if folder.is_relative_to(each.point)), key=lambda each: len(each.point))

    monkeypatch.setattr(filesystem, "_mount", mount)
    monkeypatch.setattr(filesystem, "nearest", lambda folder: folder)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("/srv/uploads", "/srv/docs", False),
        ("/srv/uploads", "/mnt/other", False),
        ("/mnt/bare", "/mnt/bare2", False),
        ("/srv/uploads", "/mnt/again", True),
        ("/srv/uploads", "/mnt/year", True),
        ("/srv/uploads/2026/03", "/mnt/year", True),
        ("/srv/uploads/2025", "/mnt/year", False),
        ("/srv/docs", "/mnt/all of it", True),
        ("/srv/docs", "/mnt/all of it/docs/old", True),
        ("/srv/docs", "/mnt/all of it/uploads", False),
        ("/smb/uploads", "/smb/docs", False),
        ("/smb/uploads", "/smb/year", True),
        ("/ssh/one", "/ssh/two", False),
        ("/ssh/one", "/ssh/bound", True),
        ("/ssh/one/above", "/ssh/bound", False),
        ("/lower/srv/x", "/bound/x", True),
        ("/lower/srv/x", "/bound/y", False),
    ],
)
def test_locations_overlap_only_for_the_same_folder_of_the_same_file_system(mounted, one, other, same):
    here, there = filesystem.locations(Path(one)), filesystem.locations(Path(other))
    assert any(overlap(mine, theirs) for mine in here for theirs in there) is same
