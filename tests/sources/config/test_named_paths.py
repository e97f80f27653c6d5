import os
from pathlib import Path

import pytest

from recovery.common.errors import SourceError
from recovery.plan.excludes import Excludes
from recovery.sources.config.named_paths import NamedPaths
from tests.support.file_zoo import NOBODY, open_up


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "home"
    (home / "custom/plugins").mkdir(parents=True)
    for name in (".env", "custom/app.py", "custom/plugins/one.pyc"):
        (home / name).write_text("ours")
    return home


def walk(home, *names, damaged=False):
    return NamedPaths("config.settings", [home / name for name in names], Excludes(["*.pyc"])).walk(damaged=damaged)


def found(walk, home):
    return {str(Path("/", os.fsdecode(each.path)).relative_to(home)): each.kind for each in walk}


def test_walk_of_missing_paths_fails_and_names_all_of_them(home):
    with pytest.raises(SourceError, match=r"config\.settings: not there: .*/\.missing, .*/other"):
        walk(home, ".env", ".missing", "other")


def test_walk_of_missing_paths_of_a_damaged_source_has_the_others_and_says_what_is_gone(home):
    look = walk(home, ".env", "other", damaged=True)
    assert found(look, home) == {".env": "file"}
    assert look.gone == [f"{home}/other"]


def test_walk_of_the_root_folder_fails(home):
    with pytest.raises(SourceError, match="names / itself"):
        walk(Path("/"), ".")


def test_walk_of_nested_paths_has_each_entry_once_and_refuses_an_excluded_path(home):
    assert walk(home, "custom", "custom/app.py").starts == [os.fsencode(home / "custom")[1:]]
    with pytest.raises(SourceError, match=r"names .*one\.pyc, but excludes it"):
        walk(home, "custom", "custom/plugins/one.pyc")


def test_walk_of_a_link_has_what_it_leads_to(home):
    (home / "current").symlink_to("custom/app.py")
    assert found(walk(home, "current"), home) == {"current": "link", "custom/app.py": "file"}
    (home / "current").unlink()
    (home / "current").symlink_to("gone")
    with pytest.raises(SourceError, match=r"not there: .*/gone"):
        walk(home, "current")


@pytest.mark.skipif(os.geteuid() != 0, reason="changes to another user")
def test_walk_of_a_link_that_another_user_may_exchange_fails_unless_its_target_is_named_too(tmp_path, home):
    open_up(tmp_path)
    (tmp_path / "secret").write_text("root's own")
    (home / "link").symlink_to(tmp_path / "secret")
    os.chown(home, NOBODY, NOBODY)
    with pytest.raises(SourceError, match=f"not followed, since other users may exchange them: {home}/link"):
        walk(home, "link", ".env")
    (home / "link").unlink()
    (home / "link").symlink_to(".env")
    assert found(walk(home, "link", ".env"), home) == {"link": "link", ".env": "file"}
