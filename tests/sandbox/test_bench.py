import json

import pytest

from sandbox.bench import __main__
from sandbox.bench.table import table

WAYS = {"script", "verified", "not verified", "floor"}
STEPS = {f"{step} {source}" for source in ("postgres.main", "mongo.documents") for step in ("dump", "compress", "verify")}


@pytest.fixture(scope="module")
def results(server_folder):
    return __main__.measure(server_folder / "bench", scale=0.002, rounds=1)


def test_the_data_has_the_size_that_was_asked_for(results):
    assert results["data"]["rows"] == 16000
    assert results["data"]["documents"] == 1200


def test_every_way_to_back_up_is_measured_and_compared(results):
    backup = results["backup"]
    assert backup["seconds"].keys() == backup["rounds"].keys() == WAYS
    assert all(seconds > 0 for seconds in backup["seconds"].values())
    for name in ("verified", "not verified"):
        assert backup["times_as_fast_as_script"][name] == backup["seconds"]["script"] / backup["seconds"][name]
        assert backup["times_the_floor"][name] == backup["seconds"][name] / backup["seconds"]["floor"]
    assert backup["rounds"]["verified"][0]["parts"].keys() == {*STEPS, "upload both"}
    assert all(backup["rounds"][name][0]["bytes"] > 10_000 for name in WAYS - {"floor"})
    assert all(backup["rounds"][name][0]["cpu_seconds"] > 0 for name in WAYS)


def test_memory_of_every_step_is_there_for_both_sizes(results):
    small, large = results["memory"].values()
    assert small.keys() == large.keys() == {*STEPS, "upload both"}
    assert any(peaks["tools"] > 1 << 20 for peaks in large.values())
    assert all(peaks["python"] < 1 << 30 for peaks in large.values())


def test_a_restore_with_its_proof_is_measured(results):
    restore = results["restore"]
    assert restore["plain"].keys() == {"pg_restore -j2", "mongorestore"}
    assert restore["parts"].keys() == {f"{step} {source}" for source in ("postgres.main", "mongo.documents") for step in ("stage", "prove")}
    assert restore["times_plain"] == restore["seconds"] / sum(restore["plain"].values())


def test_it_is_json_and_a_table(results):
    airflow = {"tasks": 19, "runs": [12.0], "directly": [4.0], "adds": 8.0}
    read = json.loads(json.dumps(results | {"airflow": airflow, "seconds": 100.0}))
    lines = table(read).splitlines()
    assert any(line.startswith("verified") and "≥3.0" in line and "≤2.0" in line for line in lines)
    assert any("Airflow adds 8.0 s" in line for line in lines)
    assert {line.split()[0] for line in lines if line} >= {"dump", "compress", "verify", "upload", "restore"}
