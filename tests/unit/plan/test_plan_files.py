"""plan.json: written with its record, read from wherever a plan may be."""

import json
from pathlib import Path

import pytest
from plan_cases import geometry

from hydrahead.core.artefacts import read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.files import read_plan, write_plan
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    result = make_plan(random_scores(geometry(), 0), full_fraction=0.5)
    path = tmp_path / "plans" / "plan.json"
    write_plan(path, result.plan, configuration=result.configuration, report=result.report)
    assert read_plan(path) == result.plan
    record = read_record(path)
    assert (record.kind, record.configuration) == ("plan", result.configuration)
    assert json.loads(path.read_text())["report"] == result.report
    write_plan(path, result.plan, configuration=result.configuration, report=result.report)
    other = make_plan(random_scores(geometry(), 0), full_fraction=1)
    with pytest.raises(HydraHeadError, match="full_fraction"):
        write_plan(path, other.plan, configuration=other.configuration)
    write_plan(path, other.plan, configuration=other.configuration, force=True)
    assert read_plan(path) == other.plan


def test_plans_are_found_in_other_places(tmp_path: Path) -> None:
    plan = make_plan(random_scores(geometry(), 0), full_fraction=0.5).plan
    (tmp_path / "bare.json").write_text(plan.to_json())
    assert read_plan(tmp_path / "bare.json") == plan
    config = {"model_type": "hydrahead", "hidden_size": 32, "plan": plan.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert read_plan(str(tmp_path)) == plan


def test_what_holds_no_plan_is_named(tmp_path: Path) -> None:
    plan = make_plan(random_scores(geometry(), 0), full_fraction=0.5).plan.to_dict()
    for content, words in (
        ("{}", "holds no plan"),
        ("[1]", "holds no plan"),
        ('{"plan": 3}', "holds no plan"),
        (json.dumps({"plan": plan, "reports": {}}), "did you mean 'report'"),
        (json.dumps({"plan": {**plan, "unit": "x"}}), "unit"),
        ('{"plan": ', "not valid JSON"),
    ):
        path = tmp_path / "plan.json"
        path.write_text(content)
        with pytest.raises(HydraHeadError, match=words) as caught:
            read_plan(path)
        assert str(path) in str(caught.value)
    with pytest.raises(HydraHeadError, match="no such file"):
        read_plan(tmp_path / "missing.json")
