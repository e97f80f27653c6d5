"""Where the processor time of a process and its children goes, against work that is known."""

import faulthandler
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import zstandard

from sandbox.bench.profiled import OTHERS, OWN, profiled
from sandbox.bench.stacks import THREADS_OF_LIBRARIES, sampled

POUR = "import sys\nfor _ in range(600): sys.stdout.buffer.write(b'12' * 100_000)"
BURN = "import time\nwhile time.process_time() < {}: pass"


class Work:
    def busy(self, seconds):
        while time.thread_time() < seconds:
            pass


def hash_for(seconds):
    """Without the interpreter's lock."""
    data, started = bytes(1 << 20), time.thread_time()
    while time.thread_time() - started < seconds:
        hashlib.sha256(data).digest()


def read_from(stream):
    return stream.read(1 << 18)


def cut_apart(stream):
    while block := read_from(stream):
        for _ in range(8):
            block.split(b"1")


def encode():
    json.dumps([{"a": number} for number in range(300_000)], indent=2)


@pytest.fixture(autouse=True)
def as_own_code(monkeypatch):
    """This module is none of the project's packages."""
    monkeypatch.setattr("sandbox.bench.stacks._OURS", {f"{Path(__file__).parent}/": ""})


def of(found, name):
    return found.get(f"test_bench_profiled:{name}", 0.0)


def test_samples_put_the_time_down_to_the_function_of_each_thread():
    thread = threading.Thread(target=Work().busy, args=(1.0,))
    before = time.process_time()
    with sampled() as found:
        thread.start()
        hash_for(2.0)
        thread.join()
    together = time.process_time() - before
    assert of(found, "Work.busy") == pytest.approx(1.0, abs=0.3)
    assert of(found, "hash_for") == pytest.approx(2.0, abs=0.3)
    assert sum(found.values()) == pytest.approx(together, abs=0.05)


def test_samples_find_short_work_between_reads_of_a_pipe():
    """A sampler that waits for the interpreter's lock gets it in the reads, and would find nothing else."""
    with subprocess.Popen([sys.executable, "-c", POUR], stdout=subprocess.PIPE) as process, sampled() as found:
        cut_apart(process.stdout)
    assert of(found, "cut_apart") > 2 * of(found, "read_from")


def test_samples_name_the_library_that_works_for_a_function():
    with sampled() as found:
        encode()
    assert of(found, "encode > json") > 0.6 * sum(found.values())


def test_samples_find_the_time_of_threads_that_python_does_not_know():
    data = os.urandom(20_000_000).hex().encode()
    before = time.process_time()
    with sampled() as found:
        own = time.thread_time()
        zstandard.ZstdCompressor(level=6, threads=2).compress(data)
        own = time.thread_time() - own
    everything = time.process_time() - before
    assert found[THREADS_OF_LIBRARIES] == pytest.approx(everything - own, abs=0.3)
    assert found[THREADS_OF_LIBRARIES] > 0.4


def test_signals_of_the_timer_end_with_the_block():
    with pytest.raises(KeyError), sampled():
        raise KeyError
    assert signal.getitimer(signal.ITIMER_PROF) == (0.0, 0.0)
    assert not faulthandler.unregister(signal.SIGPROF)


def test_children_are_counted_by_program_with_their_own_children(tmp_path):
    with profiled(tmp_path) as profile:
        subprocess.run(["sh", "-c", f"{sys.executable} -c '{BURN.format(0.3)}'; true"], check=True)
        with subprocess.Popen(["true"]) as process:
            pass
        busy_child = tmp_path / "burns.py"
        busy_child.write_text(BURN.format(0.2))
        assert subprocess.run([sys.executable, busy_child]).returncode == 0
    assert process.returncode == 0
    assert set(profile.programs) == {"sh", "true", "burns", OWN}
    assert profile.programs["sh"] >= 0.3
    assert 0.2 <= profile.programs["burns"] < 0.3


def test_child_that_was_waited_for_in_another_way_is_not_lost(tmp_path):
    with profiled(tmp_path) as profile:
        subprocess.run([sys.executable, "-c", BURN.format(0.2)], check=True, timeout=60)
    assert profile.programs[OTHERS] >= 0.2


@pytest.mark.parametrize(("argv", "status"), [(["sh", "-c", "exit 3"], 3), (["sh", "-c", "kill -9 $$"], -9)])
def test_counted_child_has_its_exit_status(argv, status, tmp_path):
    with profiled(tmp_path):
        process = subprocess.Popen(argv)
        assert process.wait() == status
        assert process.wait() == process.poll() == status


def test_processes_are_started_as_before_after_a_profile(tmp_path):
    before = subprocess.Popen
    with pytest.raises(KeyError), profiled(tmp_path):
        assert subprocess.Popen is not before
        raise KeyError
    assert subprocess.Popen is before
