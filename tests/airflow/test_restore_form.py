"""The form of a restore and what it asks."""

from datetime import UTC, datetime

import pytest
from airflow.sdk.exceptions import ParamValidationError

from recovery.airflow import restore_form
from recovery.common.errors import PlanError
from tests.support.system import SampleSystem

FACTS = {"run_id": "one", "requester": "operator", "started": datetime(2026, 11, 23, tzinfo=UTC)}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    return SampleSystem(tmp_path_factory.mktemp("form") / "small", "small", gates=()).plan()


def values(plan, **changes):
    return {name: param.value for name, param in restore_form.fields(plan).items()} | changes


def test_the_form_as_it_comes_asks_for_all_of_the_newest_set_into_the_live_system(plan):
    asked = restore_form.request(values(plan), **FACTS)
    assert (asked.set, asked.target, asked.method, asked.only) == ("latest", "live", "swap", {})
    assert asked.sources == tuple(plan.source_ids)
    assert not asked.dry_run


def test_parts_are_asked_for_source_by_source(plan):
    filled = values(plan, **{"only.files.uploads": ["2026/03", " *.pdf ", ""], "only.config.settings": None})
    assert restore_form.request(filled, **FACTS).only == {"files.uploads": ("2026/03", "*.pdf")}


def test_a_field_of_blank_lines_is_not_taken_for_everything(plan):
    with pytest.raises(PlanError, match=r"parts of files\.uploads are blank"):
        restore_form.request(values(plan, **{"only.files.uploads": [" ", ""]}), **FACTS)


@pytest.mark.parametrize("wrong", [[5], "2026/03", ["a", None], [["a"]], 0, False, "", {}, {"a": "b"}], ids=repr)
def test_parts_that_are_no_texts_are_refused(plan, wrong):
    with pytest.raises(PlanError, match=r"only\.files\.uploads is .*, which is no list of texts"):
        restore_form.request(values(plan, **{"only.files.uploads": wrong}), **FACTS)
    with pytest.raises(ParamValidationError):
        restore_form.fields(plan)["only.files.uploads"].resolve(wrong)


def test_choices_come_from_the_plan_and_every_field_is_described(plan):
    fields = restore_form.fields(plan)
    assert fields["target"].schema["enum"] == ["live", "elsewhere"]
    assert fields["sources"].schema["items"]["enum"] == list(plan.source_ids)
    assert fields["only.config.settings"].schema["examples"] == [str(path) for path in plan.source("config.settings").paths]
    assert all(len(field.description) > 20 for field in fields.values())
    assert fields["target"].value == "live"


def test_a_wrong_target_or_method_is_refused_by_the_form(plan):
    for name, wrong in (("target", "prodction"), ("method", "quickly")):
        with pytest.raises(Exception, match=wrong):
            restore_form.fields(plan)[name].resolve(wrong)
