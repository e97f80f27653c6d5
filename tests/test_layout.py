"""Where files lie: tests mirror the rooms of the source, and nothing lies between the rooms."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "include/recovery"
TESTS = ROOT / "tests"
ROOMS = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").exists()}
BESIDE = {
    "campaigns": "kills, random restores and large schemas, through all rooms",
    "compose": "docker-compose.yaml and tools/compose",
    "dags": "the folder dags",
    "docker": "docker-compose.yaml started, and databases and services in containers; sandbox/containers",
    "end_to_end": "whole runs in a real Airflow",
    "sandbox": "the folder sandbox",
    "support": "what tests share",
    "tools": "the folder tools",
    "wheel": "what is built from the tree, in an environment without it",
}
"""Folders of tests that mirror no room of the package, and what they are about."""
NOT_ONE_MODULE = {
    "destinations/test_contract.py": "what base.py asks of every destination",
    "plan/test_fuzz.py": "yaml_file.py, variables.py, loader.py and every check of a value together",
    "restore/test_capacity.py": "what preflight_facts.py and preflight_rules.py say of room, on real disks",
    "restore/test_isolation.py": "what preflight_facts.py and preflight_rules.py say of sources that overlap, on real systems",
    "restore/test_dry_run.py": "a restore that ends after its preflight: choose_set, preflight and report together",
    "sources/test_runners.py": "the tools of every kind, and the runner that starts them",
    "sources/postgres/tables/test_exceptions.py": "load.py, staged.py, create.py and rehearsal.py, if something can't be made",
    "sources/postgres/test_extensions.py": "dumps and restores of databases that need extensions of others",
    "sources/config/test_selection.py": "trees/selection.py and trees/in_place.py, as this kind of source uses them",
    "sources/files/test_attacker.py": "trees/work_folder.py, trees/places.py and trees/swap.py, against the owner of the live folder",
    "sources/files/test_in_place.py": "trees/in_place.py, as this kind of source uses it",
    "targets/test_attacker.py": "runners/isolation.py, the scratch servers of all kinds and targets/scratch.py, against code in a set",
}
"""Test modules of a room that are about several modules of the source, and which."""
MODULES = [path.relative_to(TESTS).as_posix() for path in sorted(TESTS.rglob("test_*.py")) if path.relative_to(TESTS).parts[0] in ROOMS]


def test_test_folders_mirror_source_packages_or_have_a_reason():
    folders = {path.name for path in TESTS.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders - ROOMS == set(BESIDE)


def test_every_source_kind_has_a_test_folder():
    kinds = {path.name for path in (SOURCE / "sources").iterdir() if (path / "__init__.py").exists()}
    assert kinds >= {"config", "files", "mongo", "postgres", "trees"}
    assert [kind for kind in sorted(kinds) if not any((TESTS / "sources" / kind).glob("test_*.py"))] == []


@pytest.mark.parametrize("module", MODULES)
def test_test_module_is_named_after_a_source_module_unless_excepted(module):
    path = Path(module)
    tested = SOURCE / path.parent / path.stem.removeprefix("test_")
    assert (tested.with_suffix(".py").exists() or (tested / "__init__.py").exists()) != (module in NOT_ONE_MODULE)


def test_layout_exceptions_name_existing_test_modules():
    assert set(NOT_ONE_MODULE) <= set(MODULES)


def test_source_root_has_no_modules_except_init_and_main():
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}
