"""Dry runs: everything is found out and compared, nothing is written to a target or a destination."""

import pytest

from recovery.common.errors import ApprovalError
from recovery.restore import safety_backup, steps
from tests.support.restore_driver import journal_steps, run_until, teardown

pytestmark = pytest.mark.slow


def at_destinations(whole):
    return {path: path.stat().st_mtime_ns for target in ("near", "far") for path in sorted((whole.folder / target).rglob("*"))}


def test_dry_run_reports_differences_and_leaves_target_and_destinations_unchanged(whole):
    stored = at_destinations(whole)
    run = whole.restore()
    run_until(whole, run, request=whole.ask(run, dry_run=True, requester=""))
    text = run.findings().text
    for words in (
        "tries out, changing nothing",
        "| table | changed | 1 |",
        "| table | removed | 1 |",
        "by_mistake",
        "| collection | changed | 1 |",
        "| collection | removed | 1 |",
        "| file | added |",
        "| file | changed | 1 |",
        "| file | removed | 1 |",
        "This was a dry run",
    ):
        assert words in text, text
    for step in (safety_backup.back_up_live, steps.stop_services):
        if step is safety_backup.back_up_live:
            assert step(run) is False
        else:
            with pytest.raises(ApprovalError, match="dry run"):
                step(run)
    with pytest.raises(ApprovalError, match="dry run"):
        steps.stage(run, "files.uploads")
    assert teardown(run) == "", journal_steps(run)
    assert at_destinations(whole) == stored
    assert whole.fingerprint() == whole.before
    assert whole.leftovers() == []
    assert run.journal.closed


def test_preflight_findings_include_comparison_when_requested(whole):
    run = whole.restore()
    run_until(whole, run, "preflight", whole.ask(run, compare=True, sources=("files.uploads",), only={"files.uploads": ("top.txt",)}))
    text = run.findings().text
    assert "| file | changed | 1 |" in text
    assert "Only: top.txt" in text
    assert "removed" not in text


def test_comparison_of_tables_beside_says_what_a_swap_would_change(whole):
    run = whole.restore()
    only = {"postgres.main": ("whole.public.requests",)}
    run_until(whole, run, "preflight", whole.ask(run, compare=True, method="beside", sources=("postgres.main",), only=only))
    assert "| what a swap would change |" in run.findings().text
    teardown(run)


def test_dry_run_reports_equal_sources(whole):
    (whole.home / ".env").write_text("DB_PASSWORD=new\n")
    whole.back_up("later")
    run = whole.restore()
    run_until(whole, run, request=whole.ask(run, dry_run=True, sources=("files.uploads", "postgres.main")))
    assert run.findings().text.count("is **equal** to the set") == 2
