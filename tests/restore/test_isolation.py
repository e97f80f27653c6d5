"""Sources whose folders lie in another source's, which leaves them out."""

import shutil
import subprocess

import pytest

from recovery.common.errors import RestoreError
from recovery.restore import choose_set, preflight
from tests.support.small import Small, end, forward, said, steps

YEARS = "    years: {path: HOME/storage/year0}\n"
LIB = '    lib: {paths: ["HOME/custom/lib", "HOME/storage/.env"]}\n'


def edit(small, old, new):
    path = small.plans / f"{small.name}.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new.replace("HOME", str(small.home))))


def nest(small):
    """A folder of files in a folder of files; settings in settings, and in files."""
    edit(small, 'exclude: ["*.tmp"]}\n', f'exclude: ["*.tmp", year0, .env]}}\n{YEARS}')
    edit(small, 'custom"]}\n', f'custom"], exclude: [lib]}}\n{LIB}')


@pytest.fixture
def small(tmp_path):
    made = Small(tmp_path / "small", "small")
    (made.storage / ".env").write_text("KEY=as-in-the-set\n")
    (made.home / "custom" / "own.py").write_text("OWN = 1\n")
    (made.home / "custom").chmod(0o2711)
    nest(made)
    return made


def state(small):
    """Everything below the home folder but copies of restores: kind, mode, content."""
    found = {}
    for path in sorted(small.home.rglob("*")):
        if ".recovery-" not in str(path):
            what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(small.home))] = (path.lstat().st_mode, what)
    return found


def harm(small):
    (small.storage / "year0" / "upload 0.bin").unlink()
    (small.storage / "year0" / "later").write_text("later")
    (small.storage / ".env").unlink()
    (small.home / "custom" / "lib" / "flow.py").unlink()


def lose(small):
    shutil.rmtree(small.storage)
    shutil.rmtree(small.home / "custom")


def lose_within(small):
    shutil.rmtree(small.storage / "year0")
    shutil.rmtree(small.home / "custom" / "lib")


def damage(small, harm):
    small.back_up()
    small.set_state = state(small)
    small.disaster()
    harm(small)
    small.before = state(small)


def refused(small, **asked):
    run = small.restore()
    choose_set.choose(run, small.ask(run, **asked))
    with pytest.raises(RestoreError, match="The restore would fail") as words:
        preflight.preflight(run)
    end(run)
    return str(words.value)


@pytest.mark.parametrize("harm", [harm, lose_within, lose])
def test_all_of_it_comes_back(small, harm):
    damage(small, harm)
    run = small.restore()
    forward(small, run, request=small.ask(run, config="missing" if harm is lose else "all"))
    assert end(run) == "", said(run)
    assert state(small) == small.set_state


@pytest.mark.parametrize(("harm", "method"), [(harm, "switch"), (lose, "switch"), (harm, "in place")])
def test_all_of_it_is_taken_back(small, harm, method):
    damage(small, harm)
    run = small.restore()
    forward(small, run, "switch files.years", small.ask(run, method=method, config="all"))
    assert "back" in end(run)
    assert state(small) == small.before
    assert not list(small.home.rglob(".recovery-*"))


def test_sources_are_staged_and_switched_in_any_order(small):
    damage(small, lose)
    run = small.restore()
    every = dict(steps(small, run))
    names = [name for name in every if not name.startswith(("stage ", "prove ", "switch "))]
    for verb, after in (("switch", "safety"), ("prove", "gate plan"), ("stage", "gate plan")):
        names[names.index(after) + 1 : names.index(after) + 1] = [name for name in reversed(every) if name.startswith(f"{verb} ")]
    for name in names:
        every[name]()
    assert end(run) == "", said(run)
    assert state(small) == small.set_state


def test_in_place(small):
    damage(small, harm)
    run = small.restore()
    forward(small, run, request=small.ask(run, method="in place", config="all"))
    assert end(run) == "", said(run)
    assert state(small) == small.set_state


def test_in_place_a_folder_that_two_need_is_not_gone(small):
    damage(small, lose)
    words = refused(small, method="in place")
    assert f"{small.home}/custom is gone, and both config.settings and config.lib need it. Choose method: switch" in words
    run = small.restore("without")
    asked = tuple(source_id for source_id in run.plan.source_ids if source_id != "config.lib")
    forward(small, run, request=small.ask(run, method="in place", sources=asked))
    assert end(run) == "", said(run)


def test_a_set_from_before_one_left_the_other_out_is_not_restored_with_it(tmp_path):
    """The set has the inner source, but from another folder, and in the outer one what is excluded today."""
    small = Small(tmp_path / "older", "older")
    (small.folder / "years").mkdir()
    edit(small, '"*.tmp"]}\n', f'"*.tmp"]}}\n    years: {{path: {small.folder}/years}}\n')
    small.back_up()
    edit(small, '"*.tmp"]}\n', '"*.tmp", year0]}\n')
    edit(small, f"path: {small.folder}/years", "path: HOME/storage/year0")
    words = refused(small)
    assert "files.uploads and files.years would replace each other at live" in words
    assert "restore one after the other" in words


@pytest.mark.parametrize("link", ["link", "mount"])
def test_what_is_left_out_by_one_name_only_is_refused(small, link):
    """The plan says that they lie apart; on disk one lies in the other, which does not leave it out."""
    years = small.folder / "years"
    edit(small, "path: HOME/storage/year0".replace("HOME", str(small.home)), f"path: {years}")
    if link == "link":
        years.symlink_to(small.storage / "year1")
    else:
        years.mkdir()
        if subprocess.run(["mount", "--bind", small.storage / "year1", years], check=False, capture_output=True).returncode:
            pytest.skip("may not mount here")
    try:
        small.back_up()
        assert "files.uploads and files.years would replace each other at live" in refused(small)
    finally:
        if link == "mount":
            subprocess.run(["umount", years], check=True)
