import json
from pathlib import Path

import pytest

from recovery.common.errors import PlanError
from recovery.plan.loader import DEFAULT_FOLDER, BrokenPlan, load_plan, load_plans, plan_schema, read_plan

RECIPIENT = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"
PLAN = f"""
plan: shop
sources:
  postgres: {{main: {{connection: pg}}}}
  files: {{uploads: {{path: "${{UPLOADS:-/srv/uploads}}"}}}}
encryption: {{recipients: [{RECIPIENT}], identity: id}}
signing: signer
destinations: {{local: {{folder: /backups, keep_within: 30d}}}}
approvals: {{approvers: [{{id: alice, name: Alice}}]}}
"""
BUCKET = "s3: {connection: c, bucket: bucket, prefix: sets}"
WHERE = "source: mongo.documents, database: shop"
CHECK = f'{{{WHERE}, collection: orders, filter: {{at: {{$lt: {{$date: "yesterday"}}}}}}, at_least: 1}}'
HOOK = f"{{{WHERE}, command: {{delete: orders, deletes: [{{q: {{_id: {{$oid: zz}}}}, limit: 1}}]}}}}"


def read(tmp_path: Path, text: str, environ=None):
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    return read_plan(path, environ or {})


def errors(tmp_path: Path, text: str, environ=None) -> str:
    result = read(tmp_path, text, environ)
    assert isinstance(result, BrokenPlan), result
    return str(result)


def test_short_plan_gets_default_schedule_rpo_and_verification(tmp_path):
    plan = read(tmp_path, PLAN)
    assert plan.schedule == "0 1 * * *"
    assert plan.objectives.rpo.total_seconds() == 86400
    assert plan.source_ids == ["postgres.main", "files.uploads"]
    assert (plan.verification, plan.required_level) == ("content", "decoded")


def test_plan_loader_reports_all_errors_at_once_with_key_and_remedy(tmp_path):
    text = PLAN.replace("path:", "pth:").replace("30d", "thirty").replace("signing: signer\n", "").replace("plan: shop", "plan: Shop")
    said = errors(tmp_path, text + "objectivs: {rpo: 1h}\nschedule: hourly\n")
    for expected in (
        "shop.yaml: sources.files.uploads.pth: is not a key of a plan here; did you mean path?",
        "shop.yaml: destinations.local.keep_within: 'thirty' is not a duration; write for example 90s, 30m, 24h, 7d or 1d12h",
        "shop.yaml: signing: is missing; write it",
        "shop.yaml: plan: ",
        "shop.yaml: objectivs: is not a key of a plan here; did you mean objectives?",
        "shop.yaml: schedule: 'hourly' is not a cron expression of five fields",
    ):
        assert expected in said


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("1234", "the number 1234; put it in quotes"),
        ("007", "the number 7; put it in quotes"),
        ("12:30", "the number 750; put it in quotes"),
        ("on", "the answer yes; put it in quotes"),
        ("2026-11-23", "the date 2026-11-23; put it in quotes"),
        ("null", "nothing; write a value, or put it in quotes"),
    ],
)
def test_name_that_yaml_takes_for_something_else_is_said_to_need_quotes(tmp_path, written, read_as):
    text = PLAN.replace("connection: pg", f"connection: pg, databases: [{written}]")
    assert errors(tmp_path, text) == f"shop.yaml: sources.postgres.main.databases.0: YAML reads this as {read_as}"
    assert read(tmp_path, text.replace(f"[{written}]", f'["{written}"]')).sources.postgres["main"].databases == (written,)


def test_plan_variables_are_substituted_as_in_compose(tmp_path):
    assert read(tmp_path, PLAN, {"UPLOADS": "/data"}).sources.files["uploads"].path == Path("/data")
    assert read(tmp_path, PLAN, {"UPLOADS": ""}).sources.files["uploads"].path == Path("/srv/uploads")
    dollars = PLAN.replace("${UPLOADS:-/srv/uploads}", "/srv/$$HOME")
    assert read(tmp_path, dollars).sources.files["uploads"].path == Path("/srv/$HOME")
    plain = PLAN.replace("${UPLOADS:-/srv/uploads}", "$UPLOADS/x")
    assert read(tmp_path, plain, {"UPLOADS": "/data"}).sources.files["uploads"].path == Path("/data/x")
    asked = PLAN.replace("${UPLOADS:-/srv/uploads}", "${UPLOADS:?say where}")
    assert "sources.files.uploads.path: the environment variable UPLOADS is not set (say where)" in errors(tmp_path, asked)
    assert "write $$ for a $ itself" in errors(tmp_path, PLAN.replace("${UPLOADS:-/srv/uploads}", "/a/$/b"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("plan: shop", "plan: shop\nplan: other", "the key 'plan' is written twice"),
        ("plan: shop", "plan: [shop", "is not readable YAML"),
        ("plan: shop", "plan: 2026-02-30", "is not readable YAML: line 2, column 7: '2026-02-30' looks like a number"),
        ("plan: shop", f"plan: {'9' * 5000}", "is not readable YAML"),
        ("plan: shop", f"plan: {'[' * 5000}", "is not readable YAML"),
        ("plan: shop", f"plan:\n{'- ' * 30_000}", "is not readable YAML"),
        ("plan: shop", "plan: &plan [*plan]", "is not readable YAML"),
        ("/backups", "backups", "'backups' must be an absolute path"),
        ("/backups", "/backups/../etc", "must not contain '..'"),
        ("/backups", '"/backups\\0"', "destinations.local.folder: has a NUL character"),
        ("signing: signer", 'signing: signer\nservices: {stop: [[stop, "\\0"]]}', "services.stop.0.1: has a NUL character"),
        (RECIPIENT, "age1nonsense", "is not an age recipient"),
        ("identity: id", "", "'content' needs encryption.identity"),
        ("keep_within: 30d", "mount: null", "write at least one rule"),
        ("folder: /backups, ", "", "write either folder or s3"),
        ("folder: /backups, ", "folder: /backups, mount: /backups/disk, ", "/backups/disk must be the destination's folder or one above"),
        ("folder: /backups, ", f"{BUCKET}, mount: /backups, ", "mount: /backups must be the destination's folder"),
        ("folder: /backups, ", f"{BUCKET.replace('sets', 'a/../b')}, ", "no part is '.' or '..'"),
        ("folder: /backups, ", f"{BUCKET.replace('sets', '.')}, ", "no part is '.' or '..'"),
        ("signing: signer", 'signing: signer\nschedule: "0 0 31 2 *"', "'0 0 31 2 *' never comes"),
        ("signing: signer", 'signing: signer\ndrill: {schedule: "0 0 31 4,6 *"}', "drill.schedule: '0 0 31 4,6 *' never comes"),
        ("folder: /backups", "folder: /srv/uploads/backups", "lies in the source files.uploads"),
        ("postgres: {main: {connection: pg}}", "postgres: {main: {}}", "sources.postgres.main.connection: is missing"),
        ("sources:", "sources: {}\nsourcs:", "name at least one source"),
        ("approvers: [{id: alice, name: Alice}]", "approvers: []", "approvals.approvers"),
        ("signing: signer", "signing: signer\nstaging: {folder: /srv/uploads}", "staging.folder"),
        ("signing: signer", "signing: signer\ntimezone: Mars/Olympus", "timezone"),
        (
            "signing: signer",
            f"signing: signer\nchecks: [{{mongo: {CHECK}}}]",
            "checks.0.mongo.filter: this is not MongoDB's extended JSON at at.$lt",
        ),
        (
            "signing: signer",
            f"signing: signer\nhooks: {{after_backup: [{{mongo: {HOOK}}}]}}",
            "hooks.after_backup.0.mongo.command: this is not",
        ),
    ],
)
def test_plan_loader_refuses_invalid_values(tmp_path, old, new, said):
    assert old in PLAN
    assert said in errors(tmp_path, PLAN.replace(old, new))


def test_load_plans_returns_valid_plans_beside_broken_plans(tmp_path):
    (tmp_path / "good.yaml").write_text(PLAN)
    (tmp_path / "bad.yaml").write_text("plan: 5")
    (tmp_path / "twin.yml").write_text(PLAN)
    plans = load_plans(tmp_path)
    assert [plan.plan for plan in plans.valid] == ["shop"]
    assert [broken.path.name for broken in plans.broken] == ["bad.yaml", "twin.yml"]
    assert "another file of the folder is named 'shop' too" in str(plans.broken[1])
    assert load_plan("shop", tmp_path).plan == "shop"
    with pytest.raises(PlanError, match=r"bad\.yaml: plan:"):
        load_plan("other", tmp_path)


@pytest.mark.parametrize("other", ["a.yaml", "z.yaml", "shop.yml"])
def test_no_other_file_takes_the_name_of_a_plan_from_the_file_of_that_name(tmp_path, other):
    (tmp_path / "shop.yaml").write_text(PLAN)
    (tmp_path / other).write_text(PLAN.replace("/backups", "/elsewhere"))
    plans = load_plans(tmp_path)
    assert [broken.path.name for broken in plans.broken] == [other]
    assert [str(plan.destinations["local"].folder) for plan in plans.valid] == ["/backups"]


def test_load_plans_fails_when_the_folder_is_missing(tmp_path):
    with pytest.raises(PlanError, match="RECOVERY_PLANS"):
        load_plans(tmp_path / "nowhere")


def test_plans_are_frozen(tmp_path):
    plan = read(tmp_path, PLAN)
    with pytest.raises(ValueError, match="frozen"):
        plan.plan = "other"


def test_plan_schema_file_is_current():
    kept = json.loads((DEFAULT_FOLDER / "plan.schema.json").read_text())
    assert kept == plan_schema(), "run: recovery plans schema > include/plans/plan.schema.json"


def test_shipped_plan_names_the_missing_recipient_variable(monkeypatch):
    monkeypatch.delenv("OPENMANUS_RECIPIENT", raising=False)
    assert "OPENMANUS_RECIPIENT is not set (make keys with: recovery keys create" in str(load_plans(DEFAULT_FOLDER).broken[0])


def test_shipped_plan_is_valid_when_the_recipient_is_set(monkeypatch):
    monkeypatch.setenv("OPENMANUS_RECIPIENT", RECIPIENT)
    plans = load_plans(DEFAULT_FOLDER)
    assert not plans.broken
    assert [plan.plan for plan in plans.valid] == ["openmanus"]
    assert plans.valid[0].schedule == "0 1 * * *"
