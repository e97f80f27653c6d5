import json

import pytest

from sandbox.bench import __main__ as bench
from sandbox.bench import parse as bench_parse
from sandbox.bench.tables import table

WAYS = {"script", "verified", "not verified", "floor"}
STEPS = {f"{step} {source}" for source in ("postgres.main", "mongo.documents") for step in ("dump", "compress", "verify")}


@pytest.fixture(scope="module")
def results(server_folder):
    return bench.measured(server_folder / "bench", scale=0.002, rounds=1, parts=bench.ON_DATA)


@pytest.fixture(scope="module")
def parsed(server_folder):
    return bench_parse.parse(server_folder / "parse", counts=(1, 2))


def test_bench_data_has_the_requested_size(results):
    assert results["data"]["rows"] == 16000
    assert results["data"]["documents"] == 1200


def test_bench_measures_and_compares_every_backup_method(results):
    backup = results["backup"]
    medians = backup["medians"]
    assert medians.keys() == backup["rounds"].keys() == WAYS
    assert all(spent["seconds"] > 0 and spent["cpu_seconds"] > 0 for spent in medians.values())
    for name in ("verified", "not verified"):
        for what in ("seconds", "cpu_seconds"):
            assert backup["times_as_fast_as_script"][name][what] == medians["script"][what] / medians[name][what]
            assert backup["times_the_floor"][name][what] == medians[name][what] / medians["floor"][what]
    assert backup["rounds"]["verified"][0]["parts"].keys() == {*STEPS, "upload both"}
    assert all(backup["rounds"][name][0]["bytes"] > 10_000 for name in WAYS - {"floor"})
    for name in WAYS:
        (only,) = backup["rounds"][name]
        assert only["parts_cpu"].keys() == only["parts"].keys()
        assert only["cpu_seconds"] == pytest.approx(sum(only["parts_cpu"].values()), abs=0.01)


def test_bench_counts_core_seconds_of_the_server_behind_a_tool(results):
    """pg_dump itself is a third of what its dump takes, at any size."""
    (floor,) = results["backup"]["rounds"]["floor"]
    assert floor["parts_cpu"]["pg_dump -Fc -Z0"] > 0.03


def test_bench_measures_memory_of_every_step_for_both_sizes(results):
    small, large = results["memory"].values()
    assert small.keys() == large.keys() == {*STEPS, "upload both"}
    assert any(peaks["tools"] > 1 << 20 for peaks in large.values())
    assert all(peaks["python"] < 1 << 30 for peaks in large.values())


def test_bench_measures_a_restore_with_verification(results):
    rounds = results["restore"]["rounds"]
    steps = {f"{step} {source}" for source in ("postgres.main", "mongo.documents") for step in ("stage", "verify_staged")}
    assert {name: each["parts"].keys() for name, each in rounds.items()} == {
        "with verification": steps,
        "plain": {"pg_restore -j2", "mongorestore"},
    }
    for what in ("seconds", "cpu_seconds"):
        assert results["restore"]["times_plain"][what] == rounds["with verification"][what] / rounds["plain"][what]


def test_bench_reads_no_plan_except_its_own(results, server_folder):
    """The one that ships is broken where its variables are not set, and every step would say so."""
    logs = "".join(path.read_text() for path in (server_folder / "bench").rglob("*.log") if path.stem in {bench.SMALL, bench.LARGE})
    assert "postgres.main" in logs
    assert "broken" not in logs


def test_bench_measures_parsing_for_each_number_of_plans(parsed):
    assert [parsed[count]["dags"] for count in ("1", "2")] == [4, 8]
    assert parsed["2"]["bytes"] > 1.9 * parsed["1"]["bytes"] > 20_000
    assert all(each[what][1] > 0 for each in parsed.values() for what in ("imports", "parse", "serialize"))


def test_bench_results_are_json_and_print_as_a_table(results, parsed):
    airflow = {"tasks": 19, "runs": [(12.0, 30.0)], "directly": [(4.0, 5.0)], "adds": (8.0, 25.0)}
    read = json.loads(json.dumps(results | {"parse": parsed, "airflow": airflow, "seconds": 100.0}))
    lines = table(read).splitlines()
    backup, restored = results["backup"], results["restore"]
    (verified,) = (line.split() for line in lines if line.startswith("verified"))
    assert {"(≥3.0)", "(≤2.0)"} < set(verified)
    assert {f"{backup[to]['verified']['cpu_seconds']:.1f}" for to in ("times_as_fast_as_script", "times_the_floor")} < set(verified)
    assert any(line.startswith("with verification") and line.endswith(f"{restored['times_plain']['cpu_seconds']:.1f}") for line in lines)
    assert any("2 plans" in line and "≤60" in line for line in lines)
    assert any("Airflow adds 8.0 s (≤10) and 25.0 core-s" in line for line in lines)
    assert {line.split()[0] for line in lines if line} >= {"dump", "compress", "verify", "upload", "restore", "plain", "parsing"}


def test_bench_table_prints_only_the_measured_part(parsed):
    lines = table({"processors": 2, "load_before": 0.1, "parse": parsed, "seconds": 9.0}).splitlines()
    assert {line.split()[0] for line in lines if line} == {"2", "parsing", "1", "The"}


def test_bench_refuses_an_unknown_part(capsys):
    assert bench.main("pars") == 2
    assert "There is no part pars; there are backup, memory, restore, parse, airflow." in capsys.readouterr().err
