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


def test_restore_form_defaults_request_all_sources_of_the_latest_set_into_live(plan):
    asked = restore_form.request(values(plan), **FACTS)
    assert (asked.set, asked.target, asked.method, asked.only) == ("latest", "live", "swap", {})
    assert asked.sources == tuple(plan.source_ids)
    assert not asked.dry_run


def test_restore_form_requests_parts_of_each_source(plan):
    filled = values(plan, **{"only.files.uploads": ["2026/03", " *.pdf ", ""], "only.config.settings": None})
    assert restore_form.request(filled, **FACTS).only == {"files.uploads": ("2026/03", "*.pdf")}


def test_restore_form_refuses_parts_of_blank_lines_only(plan):
    with pytest.raises(PlanError, match=r"parts of files\.uploads are blank"):
        restore_form.request(values(plan, **{"only.files.uploads": [" ", ""]}), **FACTS)


@pytest.mark.parametrize("wrong", [[5], "2026/03", ["a", None], [["a"]], 0, False, "", {}, {"a": "b"}], ids=repr)
def test_restore_form_refuses_parts_that_are_not_a_list_of_texts(plan, wrong):
    with pytest.raises(PlanError, match=r"only\.files\.uploads is .*, which is no list of texts"):
        restore_form.request(values(plan, **{"only.files.uploads": wrong}), **FACTS)
    with pytest.raises(ParamValidationError):
        restore_form.fields(plan)["only.files.uploads"].resolve(wrong)


def test_restore_form_has_choices_of_the_plan_and_a_description_of_every_field(plan):
    fields = restore_form.fields(plan)
    assert fields["target"].schema["enum"] == ["live", "elsewhere"]
    assert fields["sources"].schema["items"]["enum"] == list(plan.source_ids)
    assert fields["only.config.settings"].schema["examples"] == [str(path) for path in plan.source("config.settings").paths]
    assert all(len(field.description) > 20 for field in fields.values())
    assert fields["target"].value == "live"


def test_restore_form_offers_first_the_method_that_the_plan_names(plan):
    offered = restore_form.fields(plan.model_copy(update={"restore_method": "beside"}))["method"]
    assert (offered.value, offered.schema["enum"]) == ("beside", ["swap", "in place", "beside"])


def test_restore_form_refuses_an_unknown_target_or_method(plan):
    for name, wrong in (("target", "prodction"), ("method", "quickly")):
        with pytest.raises(Exception, match=wrong):
            restore_form.fields(plan)[name].resolve(wrong)
