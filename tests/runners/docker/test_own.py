"""The own container is known by the files of /proc, on each version of control groups, and none is on a plain machine."""

import pytest

from recovery.runners.docker.own import own_containers

ONE, OTHER = "0123456789abcdef" * 4, "fedcba9876543210" * 4
MOUNT = "239 222 254:0 /var/lib/docker/containers/{}/{} {} rw,relatime - ext4 /dev/vda rw\n"


@pytest.mark.parametrize(
    ("cgroup", "mounts", "found"),
    [
        (f"9:name=systemd:/docker/{ONE}\n", "", {ONE}),
        (f"0::/system.slice/docker-{ONE}.scope\n", "", {ONE}),
        ("0::/\n", MOUNT.format(ONE, "hostname", "/etc/hostname"), {ONE}),
        ("0::/user.slice\n", MOUNT.format(ONE, "mounts/shm", f"/var/lib/docker/containers/{ONE}/mounts/shm"), set()),
        (f"9:cpu:/docker/{ONE}\n", MOUNT.format(OTHER, "resolv.conf", "/etc/resolv.conf"), {ONE, OTHER}),
        (f"9:cpu:/docker/{ONE}ff\n", "", set()),
    ],
)
def test_own_containers(tmp_path, cgroup, mounts, found):
    (tmp_path / "cgroup").write_text(cgroup)
    (tmp_path / "mountinfo").write_text("1 0 0:1 / / rw - ext4 /dev/vda rw\n" + mounts)
    assert own_containers(tmp_path) == found


def test_system_without_these_files_has_none(tmp_path):
    assert own_containers(tmp_path) == set()
