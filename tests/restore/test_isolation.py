"""Sources whose folders lie in another source's, which leaves them out."""

import shutil
import subprocess

import pytest

from tests.support.restore_driver import journal_steps, refused_by_preflight, run_until, steps, teardown
from tests.support.system import SampleSystem

pytestmark = pytest.mark.slow


def nest(system):
    """A folder of files in a folder of files; settings in settings, and in files."""
    system.edit_plan('exclude: ["*.tmp"]}\n', f'exclude: ["*.tmp", year0, .env]}}\n    years: {{path: {system.home}/storage/year0}}\n')
    lib = f'    lib: {{paths: ["{system.home}/custom/lib", "{system.home}/storage/.env"]}}\n'
    system.edit_plan('custom"]}\n', f'custom"], exclude: [lib]}}\n{lib}')


@pytest.fixture
def system(tmp_path):
    made = SampleSystem(tmp_path / "small", "small")
    (made.storage / ".env").write_text("KEY=as-in-the-set\n")
    (made.home / "custom" / "own.py").write_text("OWN = 1\n")
    (made.home / "custom").chmod(0o2711)
    nest(made)
    return made


def state(system):
    """Everything below the home folder but copies of restores: kind, mode, content."""
    found = {}
    for path in sorted(system.home.rglob("*")):
        if ".recovery-" not in str(path):
            what = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[str(path.relative_to(system.home))] = (path.lstat().st_mode, what)
    return found


def harm(system):
    (system.storage / "year0" / "upload 0.bin").unlink()
    (system.storage / "year0" / "later").write_text("later")
    (system.storage / ".env").unlink()
    (system.home / "custom" / "lib" / "flow.py").unlink()


def lose(system):
    shutil.rmtree(system.storage)
    shutil.rmtree(system.home / "custom")


def lose_within(system):
    shutil.rmtree(system.storage / "year0")
    shutil.rmtree(system.home / "custom" / "lib")


def damage(system, harm):
    system.back_up()
    system.set_state = state(system)
    system.disaster()
    harm(system)
    system.before = state(system)


def refused(system, **asked):
    run = system.restore()
    return refused_by_preflight(run, system.ask(run, **asked))


@pytest.mark.parametrize("harm", [harm, lose_within, lose])
def test_restore_of_nested_sources_equals_set(system, harm):
    damage(system, harm)
    run = system.restore()
    run_until(system, run, request=system.ask(run, config="missing" if harm is lose else "all"))
    assert teardown(run) == "", journal_steps(run)
    assert state(system) == system.set_state


@pytest.mark.parametrize(("harm", "method"), [(harm, "swap"), (lose, "swap"), (harm, "in place")])
def test_rollback_of_nested_sources_equals_previous_data(system, harm, method):
    damage(system, harm)
    run = system.restore()
    run_until(system, run, "cutover files.years", system.ask(run, method=method, config="all"))
    assert "back" in teardown(run)
    assert state(system) == system.before
    assert not list(system.home.rglob(".recovery-*"))


def test_nested_sources_can_be_staged_verified_and_cut_over_in_any_order(system):
    damage(system, lose)
    run = system.restore()
    every = dict(steps(system, run))
    names = [name for name in every if not name.startswith(("stage ", "verify ", "cutover "))]
    for verb, after in (("cutover", "safety"), ("verify", "gate plan"), ("stage", "gate plan")):
        names[names.index(after) + 1 : names.index(after) + 1] = [name for name in reversed(every) if name.startswith(f"{verb} ")]
    for name in names:
        every[name]()
    assert teardown(run) == "", journal_steps(run)
    assert state(system) == system.set_state


def test_in_place_restore_of_nested_sources_equals_set(system):
    damage(system, harm)
    run = system.restore()
    run_until(system, run, request=system.ask(run, method="in place", config="all"))
    assert teardown(run) == "", journal_steps(run)
    assert state(system) == system.set_state


def test_preflight_refuses_in_place_when_folder_of_two_nested_sources_is_missing(system):
    damage(system, lose)
    words = refused(system, method="in place")
    assert f"{system.home}/custom is gone, and both config.settings and config.lib need it. Choose method: swap" in words
    run = system.restore("without")
    asked = tuple(source_id for source_id in run.plan.source_ids if source_id != "config.lib")
    run_until(system, run, request=system.ask(run, method="in place", sources=asked))
    assert teardown(run) == "", journal_steps(run)


def test_preflight_refuses_older_set_whose_sources_overlap_under_current_plan(tmp_path):
    """The set has the inner source, but from another folder, and in the outer one what is excluded today."""
    system = SampleSystem(tmp_path / "older", "older")
    (system.folder / "years").mkdir()
    system.edit_plan('"*.tmp"]}\n', f'"*.tmp"]}}\n    years: {{path: {system.folder}/years}}\n')
    system.back_up()
    system.edit_plan('"*.tmp"]}\n', '"*.tmp", year0]}\n')
    system.edit_plan(f"path: {system.folder}/years", f"path: {system.home}/storage/year0")
    words = refused(system)
    assert "files.uploads and files.years would replace each other at live" in words
    assert "restore one after the other" in words


@pytest.mark.parametrize("link", ["link", "mount"])
def test_preflight_refuses_sources_that_overlap_through_symlink_or_mount(system, link):
    """The plan says that they lie apart; on disk one lies in the other, which does not leave it out."""
    years = system.folder / "years"
    system.edit_plan(f"path: {system.home}/storage/year0", f"path: {years}")
    if link == "link":
        years.symlink_to(system.storage / "year1")
    else:
        years.mkdir()
        if subprocess.run(["mount", "--bind", system.storage / "year1", years], check=False, capture_output=True).returncode:
            pytest.skip("may not mount here")
    try:
        system.back_up()
        assert "files.uploads and files.years would replace each other at live" in refused(system)
    finally:
        if link == "mount":
            subprocess.run(["umount", years], check=True)
