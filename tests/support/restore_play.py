"""A restore through a real Airflow: its system, its people, their answers, and what Airflow and the system say of it."""

import email
import fcntl
import pathlib
import time
from contextlib import contextmanager
from email.header import decode_header, make_header

from recovery.restore.session import RestoreSession
from recovery.sets.records import read_records
from sandbox.person import Refused
from sandbox.servers import wait_for
from tests.support.restore_driver import assert_unchanged, journal_steps


class RestorePlay:
    """One scenario's system, plan and people; the system is damaged first.

    Args:
        name: of the plan.
        airflow: has its DAGs, unpaused.
        system: has a set that is as it is now.
        mails: gets its mails, if anything does.
    """

    def __init__(self, name, airflow, system, mails=None):
        self.airflow = airflow
        self.system = system
        self.dag = f"{name}_restore"
        self.operator, self.alice, self.bob, self.carol = map(airflow.user, ("operator", "alice", "bob", "carol"))
        self._mails = mails
        self.run_id = ""
        self._answers = {}
        self.set_state = system.fingerprint()
        system.disaster()
        self.before = system.before = system.fingerprint()

    def trigger(self, person=None, **params):
        self.run_id = (person or self.operator).trigger(self.dag, params)
        return self

    @property
    def run(self):
        return RestoreSession(self.system.context(), self.run_id)

    def gate(self, name):
        """Wait until a gate waits. One that was answered may ask again, where Airflow lost the answer: it gets the same."""
        while gate := self.alice.next_gate(self.dag, self.run_id, timeout=300):
            if gate.task_id == name:
                return gate
            self._again(gate)
        raise AssertionError(f"the run ended before the gate {name}: {self.failure_logs()}")

    def _again(self, gate):
        assert gate.task_id in self._answers, f"nobody answers the gate {gate.task_id}: {self.failure_logs()}"
        person, option = self._answers[gate.task_id]
        person.answer(gate, option)

    def approve(self, *names, person=None):
        """Answer these gates, one after the other."""
        for name in names:
            self.answer(self.gate(name), person=person or self.alice)

    def reject(self, name, person=None):
        self.answer(self.gate(name), "Reject", person or self.bob)

    def answer(self, gate, option="Approve", person=None):
        self._answers[gate.task_id] = (person or self.alice, option)
        self._again(gate)

    def answer_in_vain(self, person, option, words):
        """Answer the first gate as somebody who may not: it asks again, and its log says why."""
        for _ in range(5):  # Airflow may lose an answer
            person.answer(self.gate("approve_plan"), option)
            assert self.gate("approve_plan"), "it asks again"
            tries = self.alice.tasks(self.dag, self.run_id)["approve_plan"].try_number
            said = [self._said(number) for number in range(1, tries + 1)]
            if any(words in text for text in said):
                return
        raise AssertionError(said)

    def _said(self, number):
        """The log of one try of the first gate; nothing while Airflow does not know that try, which it moves when the next one begins."""
        try:
            return self.alice.log_text(self.dag, self.run_id, "approve_plan", number)
        except Refused as refused:
            if refused.status != 404:
                raise
            return ""

    def wait_until(self, what, condition):
        """Wait for something that comes after gates that were answered; one whose answer Airflow lost asks again, and gets the same."""

        def come():
            for gate in self.alice.gates(self.dag, self.run_id):
                if gate.task_id in self._answers and not condition():
                    self._again(gate)
            return condition()

        wait_for(what, come)

    def ended(self, state="failed"):
        """Wait for the end; what the tasks and the report said."""
        deadline = time.monotonic() + 300
        while gate := self.alice.next_gate(self.dag, self.run_id, timeout=300):
            assert time.monotonic() < deadline, f"the gate {gate.task_id} still waits: {self.failure_logs()}"
            if gate.task_id in self._answers:
                self._again(gate)
            else:
                time.sleep(1)  # one that is to stay without an answer
        self.teardowns_ended()
        found = self.alice.run_state(self.dag, self.run_id)
        assert found == state, f"{found}: {self.failure_logs()}"
        return self.failure_logs()

    def teardowns_ended(self):
        """A run that was marked by hand has ended while its teardowns still run."""
        over = {"success", "failed", "skipped", "upstream_failed"}
        wait_for(f"the report of {self.dag}", lambda: self.alice.states(self.dag, self.run_id)["report"] in over)

    def failure_logs(self):
        """What the failed tasks, and the report, said."""
        states = self.alice.states(self.dag, self.run_id)
        logs = {name: self.alice.log_text(self.dag, self.run_id, name)[-20000:] for name, state in states.items() if state == "failed"}
        report = (self.run.folder / "report.md").read_text() if (self.run.folder / "report.md").exists() else "no report"
        return "\n".join([f"{states}", report, *(f"--- {name}\n{text}" for name, text in logs.items())])

    def assert_nothing_changed(self):
        """Live is as it was before the restore, nothing is left over, the services run, nothing is held."""
        assert_unchanged(self.system, self.run)
        self.assert_nothing_held()

    def assert_nothing_held(self):
        """The restore is over, every destination has its report, and none holds the set for it."""
        assert self.run.journal.closed, journal_steps(self.run)
        for destination in self.run.context.destinations():
            found = read_records(destination, self.run.manifest().path, self.run.context.verify_key(), self.run.manifest())
            assert found.holds == (), found
            assert len(found.of("report")) == 1

    def log(self, task):
        return self.alice.log_text(self.dag, self.run_id, task)

    def mails(self, *words):
        """Mails about this plan whose subject has all of the words."""
        found = []
        for message in self._mails.messages:
            parsed = email.message_from_string(message.text)
            subject = str(make_header(decode_header(parsed["Subject"])))
            if all(word in subject for word in (f"[{self.system.name}]", *words)):
                found.append("".join(part.get_payload(decode=True).decode() for part in parsed.walk() if not part.is_multipart()))
        return found

    @contextmanager
    def source_in_use(self, source_id):
        """Hold a source's lock: whatever changes it waits."""
        path = self.run.folder / "locks" / source_id
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as lock:
            fcntl.lockf(lock, fcntl.LOCK_EX)
            yield path

    def wait_for_step(self, step, source=""):
        self.wait_until(f"{step} {source}", lambda: bool(self.run.journal.entries(step, source)))


def waiting_for(path):
    """The process that waits for a lock, from the kernel's list; None if none does."""
    inode = f":{path.stat().st_ino} "
    with pathlib.Path("/proc/locks").open() as lines:
        return next((int(line.split()[5]) for line in lines if inode in line and " -> " in line), None)
