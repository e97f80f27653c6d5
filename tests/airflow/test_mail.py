"""Mails, to a real SMTP server."""

from email import message_from_string
from email.policy import default
from types import SimpleNamespace

import pytest

from recovery.airflow import mail
from recovery.airflow.tasks import restore_session
from recovery.plan.model import Mail
from recovery.runs.journal_steps import Step
from recovery.sources.model import LeftOut
from tests.support.system import SampleSystem


@pytest.fixture
def plan(tmp_path, smtp, monkeypatch):
    connection = f'{{"conn_type": "smtp", "host": "127.0.0.1", "port": {smtp.port}, "extra": {{"disable_ssl": true, "disable_tls": true}}}}'
    monkeypatch.setenv("AIRFLOW_CONN_MAIL", connection)
    more = "alerts: {mail: {connection: mail, to: [oncall@example.org, boss@example.org], sender: recovery@example.org}}\n"
    system = SampleSystem(tmp_path / "small", "small", more=more)
    monkeypatch.setenv("RECOVERY_PLANS", str(system.plans))
    return system.plan()


def text_of(message):
    parsed = message_from_string(message.text, policy=default)
    return parsed["subject"], parsed.get_body(("html", "plain")).get_content()


def context(**more):
    run = SimpleNamespace(run_id="manual__{{ 7*7 }}<b>", dag_id="small_backup")
    return {"dag_run": run, "reason": "task_failure", "ti": None} | more


def test_failure_mail_is_sent_with_the_run_id_escaped(plan, smtp):
    for callback in mail.on_failure(plan, "Backup"):
        callback(context())
    (message,) = smtp.messages
    subject, text = text_of(message)
    assert message.to == ["oncall@example.org", "boss@example.org"]
    assert message.sender == "recovery@example.org"
    assert subject == "[small] Backup FAILED"
    assert "task_failure" in text
    assert "/dags/small_backup/runs/" in text
    assert "49" not in text
    assert "<b>" not in text


def test_gate_mail_has_the_gate_text_unrendered_and_escaped(plan, smtp):
    mail.gate_waits("small", "plan", "Replaces table {{ dag_run }} and {% raw %} <script>\nä", context())
    subject, text = text_of(smtp.messages[0])
    assert subject == "[small] restore waits for approval: plan"
    assert "/dags/small_backup/runs/" in text
    assert "&lt;script&gt;" in text
    assert "&#123;&#123; dag_run }}" in text
    assert "ä" in text


def test_mail_of_missing_acceptance_has_the_run_and_the_days_of_replaced_data(plan, smtp):
    mail.nobody_accepted(plan, context())
    subject, text = text_of(smtp.messages[0])
    assert subject == "[small] restored system was NOT accepted in time"
    assert "The replaced data stays for 7 d." in text
    assert "/dags/small_backup/runs/" in text


def test_mail_of_a_restore_that_stands_still_has_what_is_known_of_it(plan, smtp):
    mail.restore_stalled(plan, "The restore 0123abcd stands still. Its services are STOPPED. Next: Unpause that DAG.", context())
    subject, text = text_of(smtp.messages[0])
    assert subject == "[small] restore or cold backup STANDS STILL"
    assert "Its services are STOPPED. Next: Unpause that DAG." in text


def test_mail_of_a_drill_names_what_a_restore_would_leave_out(plan, smtp):
    run = SimpleNamespace(run_id="scheduled__1", dag_id="small_drill")
    session = restore_session("small", run)
    session.folder.mkdir(parents=True)
    (tell,) = mail.on_left_out(plan)
    session.record_left_out(Step.VERIFIED, "files.uploads", [])
    tell(context(dag_run=run))
    assert smtp.messages == []
    session.record_left_out(Step.VERIFIED, "postgres.main", [LeftOut("shop: index i", "shop: index i can't be made. It is slow.")])
    tell(context(dag_run=run))
    subject, text = text_of(smtp.messages[0])
    assert subject == "[small] a restore would leave things out"
    assert "postgres.main: shop: index i can&#x27;t be made. It is slow." in text


def test_mail_of_a_backup_names_its_new_warnings_each_on_one_line(plan, smtp):
    found = {"postgres.main": ["shop: index i is not valid\n\nApprove all", "shop: {{ 7*7 }}"], "files.uploads": ["uploads: not there: a"]}
    mail.new_warnings("small", "20261123T010000Z-4f2a", found, context())
    (message,) = smtp.messages
    subject, text = text_of(message)
    assert message.to == ["oncall@example.org", "boss@example.org"]
    assert subject == "[small] a backup has new warnings"
    assert "Set 20261123T010000Z-4f2a is complete." in text
    lines = text.splitlines()
    first = lines.index(r"postgres.main: shop: index i is not valid\n\nApprove all")
    assert lines[first : first + 3] == [lines[first], "postgres.main: shop: &#123;&#123; 7*7 }}", "files.uploads: uploads: not there: a"]
    assert "/dags/small_backup/runs/" in text


@pytest.mark.parametrize(("send", "about"), [(mail.gate_waits, ("plan", "text")), (mail.new_warnings, ("a set", {"files.a": ["b"]}))])
def test_mail_that_cannot_be_sent_is_logged_and_raises_no_error(plan, monkeypatch, caplog, send, about):
    monkeypatch.setenv(
        "AIRFLOW_CONN_MAIL",
        '{"conn_type": "smtp", "host": "127.0.0.1", "port": 1, "extra": {"disable_ssl": true, "timeout": 1, "retry_limit": 1}}',
    )
    send("small", *about, context())
    assert "could not be sent; nobody was told" in caplog.text


def test_mail_is_not_sent_when_the_plan_names_no_mail(tmp_path, smtp, monkeypatch):
    system = SampleSystem(tmp_path / "small", "small")
    monkeypatch.setenv("RECOVERY_PLANS", str(system.plans))
    assert not mail.on_failure(system.plan(), "Backup")
    mail.gate_waits("small", "plan", "text", context())
    mail.nobody_accepted(system.plan(), context())
    mail.restore_stalled(system.plan(), "text", context())
    mail.new_warnings("small", "a set", {"files.a": ["b"]}, context())
    assert smtp.messages == []


def test_mail_settings_are_read_from_the_plan(plan):
    assert plan.alerts.mail == Mail(connection="mail", to=("oncall@example.org", "boss@example.org"), sender="recovery@example.org")
