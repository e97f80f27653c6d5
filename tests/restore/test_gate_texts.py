import pytest

from recovery.restore import answers, choose_set, steps
from recovery.restore.gate_texts import gate_text, headline
from tests.support.restore_driver import run_until, teardown
from tests.support.system import SampleSystem


@pytest.fixture
def system(tmp_path):
    made = SampleSystem(tmp_path / "small", "small")
    made.set_id = made.back_up(note="before the **big** migration")
    made.disaster()
    return made


def test_plan_gate_shows_set_sources_and_targets(system):
    run = system.restore()
    run_until(system, run, "preflight")
    text = gate_text(run, "plan")
    for words in (
        "**operator** asks to restore **small** from set",
        system.set_id,
        r"Note of the backup: before the \*\*big\*\* migration",
        "All data written in the last",
        "### config.settings",
        "### files.uploads",
        f"Missing, and brought back: {system.home}/.env",
        "in the set; consistency: scan; verified: content",
        "Nothing live is replaced before the next gate",
    ):
        assert words in text, text
    for target in run.findings().targets.values():
        assert f"Target: `{target}`" in text


def test_cutover_gate_shows_verified_sources_and_services_to_stop(system):
    run = system.restore()
    run_until(system, run, "verify files.uploads")
    text = gate_text(run, "cutover")
    for words in (
        "verified against the set",
        "- config.settings: staged in",
        "- files.uploads: staged in",
        f"- Services are stopped by: {system.folder}/service stop web, {system.folder}/service stop workers\n",
        f"- And started by: {system.folder}/service start workers, {system.folder}/service start web\n",
        "config.settings, files.uploads",
        "set aside for 7 d;",
        "Nothing live was touched so far",
        "Don't pause `small_restore` from then on",
        "`small_maintenance` raises an alarm if nothing goes on for 15 min",
    ):
        assert words in text, text
    assert "unknown time" not in text


def test_gates_of_plan_without_services_and_checks_ask_for_manual_steps(system):
    path = system.plans / "small.yaml"
    lines = [line for line in path.read_text().splitlines() if "/service" not in line and not line.startswith(("services:", "checks:"))]
    path.write_text("\n".join(lines))
    run = system.restore()
    run_until(system, run, "verify files.uploads")
    assert "stop what writes to the data yourself" in gate_text(run, "cutover")
    for name in ("cutover",):
        answers.show(run, name, gate_text(run, name))
        answers.approve(run, name, "alice")
    steps.stop_services(run)
    for source_id in run.plan.source_ids:
        steps.cut_over(run, source_id)
    steps.start_services(run)
    steps.check_system(run)
    assert "The plan names no checks: look at the system yourself" in gate_text(run, "accept")


def test_cutover_gate_shows_commands_as_they_are_and_warns_of_services_that_nothing_starts(system):
    path = system.plans / "small.yaml"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("  start: ")]
    path.write_text("\n".join(lines).replace("stop, workers]", '"*.__x__.<b>"]'))
    run = system.restore()
    run_until(system, run, "verify files.uploads")
    text = gate_text(run, "cutover")
    assert rf"service stop web, {system.folder}/service \*.\_\_x\_\_.\<b\>" in text
    assert "- ⚠ The plan does not say how to start them." in text


def test_accept_gate_shows_check_results_and_effect_of_each_answer(system):
    run = system.restore()
    run_until(system, run, "check")
    text = gate_text(run, "accept")
    for words in ("**in use**", "✔", "service: web: check is done", "What was written since", "keeps it too, but the run ends as failed"):
        assert words in text, text
    assert "FAILED" not in text
    teardown(run)


def test_headline_names_what_each_gate_decides_for_method_and_target(system):
    run = system.restore()
    choose_set.choose(run, system.ask(run))
    assert [headline(run, gate) for gate in ("plan", "cutover", "accept")] == [
        "May this set be restored beside the live data?",
        "May the restored data take the place of the live data?",
        "Is the restored system as it should be?",
    ]
    teardown(run)
    run = system.restore("in place")
    choose_set.choose(run, system.ask(run, sources=("files.uploads",), method="in place"))
    assert [headline(run, gate) for gate in ("plan", "cutover")] == [
        "May this set be read, to replace the live data in place?",
        "May the live data be dropped, and the set be loaded in its place?",
    ]


def test_headline_names_the_target(tmp_path):
    system = SampleSystem(tmp_path / "small", "small", gates=("plan", "cutover"))
    (system.elsewhere / "storage").mkdir(parents=True)
    system.back_up()
    run = system.restore()
    choose_set.choose(run, system.ask(run, target="elsewhere"))
    assert headline(run, "plan") == "May this set be restored beside the data of the target elsewhere?"
    assert headline(run, "cutover") == "May the restored data take the place of the data of the target elsewhere?"
