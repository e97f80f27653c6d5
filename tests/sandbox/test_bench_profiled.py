"""Where the processor time of a process and its children goes, against work that is known."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from sandbox.bench.profiled import OTHERS, OWN, profiled
from sandbox.bench.stacks import OTHER_THREADS, sampled

POUR = "import sys\nfor _ in range(600): sys.stdout.buffer.write(b'12' * 100_000)"
BURN = "import time\nwhile time.process_time() < {}: pass"


class Work:
    def busy(self, seconds):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return "done"

    def fail(self, seconds):
        self.busy(seconds)
        raise KeyError


class Callable:
    def __call__(self, seconds):
        Work().busy(seconds)


def hash_for(seconds):
    """Without the interpreter's lock."""
    data, started = bytes(1 << 20), time.thread_time()
    while time.thread_time() - started < seconds:
        hashlib.sha256(data).digest()


def wait_for(future):
    return future.result()


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
    monkeypatch.setattr("sandbox.bench.stacks._OURS", (__name__,))


def of(found, name):
    return found.get(f"{__name__}:{name}", 0.0)


def test_time_is_put_down_to_functions_and_to_calls_in_pools():
    before = time.process_time()
    with sampled() as found, ThreadPoolExecutor(1) as pool:
        busy = pool.submit(Work().busy, 0.5)
        hash_for(1.0)
        assert busy.result() == "done"
    together = time.process_time() - before
    assert of(found, "Work.busy") == pytest.approx(0.5, abs=0.05)
    assert of(found, "hash_for") == pytest.approx(1.0, abs=0.1)
    assert sum(found.values()) == pytest.approx(together, abs=0.05)


def test_main_thread_is_not_found_where_it_waits_for_others():
    """A timer of the whole process would find it there, and put down what it used before."""
    with sampled() as found, ThreadPoolExecutor(1) as pool:
        for _ in range(20):
            hash_for(0.01)
            wait_for(pool.submit(Work().busy, 0.03))
    assert of(found, "hash_for") > 0.15
    assert sum(used for where, used in found.items() if "wait_for" in where) < 0.05


def test_object_that_a_pool_calls_is_named_by_its_class():
    with sampled() as found, ThreadPoolExecutor(1) as pool:
        pool.submit(Callable(), 0.1).result()
    assert of(found, "Callable") >= 0.1


def test_error_in_a_pool_is_passed_on_and_its_time_counted():
    with sampled() as found, ThreadPoolExecutor(1) as pool:
        failed = pool.submit(Work().fail, 0.3)
        with pytest.raises(KeyError):
            failed.result()
    assert of(found, "Work.fail") >= 0.3


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
    assert found[OTHER_THREADS] == pytest.approx(everything - own, abs=0.3)
    assert found[OTHER_THREADS] > 0.4


def test_timer_and_pools_are_as_before_after_a_block():
    handler, submit = signal.getsignal(signal.SIGPROF), ThreadPoolExecutor.submit
    with pytest.raises(KeyError), sampled():
        assert signal.getsignal(signal.SIGPROF) != handler
        raise KeyError
    assert signal.getsignal(signal.SIGPROF) == handler
    assert ThreadPoolExecutor.submit is submit
    Work().busy(0.1)  # a signal of a timer that still ran would end this process


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
