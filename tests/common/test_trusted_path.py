import os

import pytest

from recovery.common.trusted_path import ForeignLinkError, exchangeable, led_to
from tests.support.file_zoo import ACL, NOBODY, open_up

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")


@pytest.fixture
def folder(tmp_path):
    open_up(tmp_path)
    (tmp_path / "real" / "inner").mkdir(parents=True)
    (tmp_path / "real" / "file").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("links", "path", "end"),
    [
        ({}, "real/file", "real/file"),
        ({}, "not/there", "not/there"),
        ({"a": "real/file"}, "a", "real/file"),
        ({"a": "b", "b": "c", "c": "real/gone"}, "a", "real/gone"),
        ({"a": "nowhere/at/all"}, "a", "nowhere/at/all"),
        ({"to": "real", "a": "to/inner/../file"}, "a", "real/file"),
        ({"to": "real/inner", "to/up": "../file"}, "to/up", "real/file"),
    ],
)
def test_led_to_follows_links_to_their_end(folder, links, path, end):
    for name, target in links.items():
        (folder / name).symlink_to(target)
    assert led_to(folder / path) == folder / end


def test_led_to_gives_up_on_links_in_a_circle(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(ForeignLinkError):
        led_to(folder / "a")


@as_root
@pytest.mark.parametrize("path", ["a", "foreign/link", "foreign/roots/link"])
def test_led_to_refuses_a_link_that_another_user_may_exchange(folder, path):
    """The folder that it lies in may be root's: another user may exchange that one."""
    (folder / "foreign/roots").mkdir(parents=True)
    os.chown(folder / "foreign", NOBODY, NOBODY)
    (folder / "foreign/link").symlink_to(folder / "real/file")
    (folder / "foreign/roots/link").symlink_to(folder / "real/file")
    (folder / "a").symlink_to("foreign/link")
    with pytest.raises(ForeignLinkError):
        led_to(folder / path)


@as_root
@pytest.mark.parametrize(
    ("owner", "group", "mode", "exchangeable_there"),
    [
        (0, 0, 0o755, False),
        (0, 0, 0o775, False),
        (0, NOBODY, 0o755, False),
        (0, NOBODY, 0o775, True),
        (0, 0, 0o777, True),
        (0, 0, 0o1777, False),
        (NOBODY, 0, 0o755, True),
    ],
)
def test_exchangeable_names_the_folder_in_which_another_user_may_exchange_what_is_next(folder, owner, group, mode, exchangeable_there):
    """Whoever is in root's group can do that anywhere; where a folder keeps entries to their owners, nobody can."""
    there = folder / "real"
    os.chown(there, owner, group)
    there.chmod(mode)
    assert exchangeable(there / "inner") == (there if exchangeable_there else None)
    assert exchangeable(there) is None


@as_root
def test_exchangeable_sees_what_an_access_control_list_allows(folder):
    assert exchangeable(folder / "real/inner") is None
    os.setxattr(folder / "real", "system.posix_acl_access", ACL)
    assert exchangeable(folder / "real/inner") == folder / "real"
