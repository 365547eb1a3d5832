"""The demo's path cut short: both arms, equal bytes, the page, nothing done twice."""

import json
from pathlib import Path

import pytest

from hydrahead.evaluation import read_results
from hydrahead.pipeline.conversion import EvaluateStep, RepairStep, ScoreStep
from hydrahead.pipeline.demo import DemoRun, summary_outcome
from hydrahead.recipes.demo import demo
from hydrahead.transfer.stage_base import DistillConfig

SHORT = {"steps": 2, "batch_size": 2, "accumulation": 1, "length": 64, "warmup_steps": 1}


@pytest.fixture(scope="module")
def run() -> DemoRun:
    full = demo()
    assert full.twins is not None
    return full.model_copy(
        update={
            "score": ScoreStep(method="retrieval", settings={"pairs": 1, "length": 256}),
            "twins": RepairStep(
                stages=("align",),
                config=DistillConfig(align_target="heads", train={"align": SHORT}),
            ),
            "repair": RepairStep(
                stages=("distill",), config=DistillConfig(train={"distill": SHORT})
            ),
            "evaluation": EvaluateStep(tasks=("niah_single",), lengths=(128,), samples=2),
            "random_plans": 3,
            "ranking_samples": 1,
            "ranking_length": 128,
        }
    )


@pytest.fixture(scope="module")
def out(run: DemoRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    assert run.execute(out) == out / "report.html"
    return out


def test_both_arms_cost_the_same(out: Path) -> None:
    teacher, scored, control = read_results(out / "evaluation").models
    assert [model.name for model in (teacher, scored, control)] == [
        "small_teacher",
        "scored",
        "random",
    ]
    costs = [model.cost_at(128) for model in (teacher, scored, control)]
    totals = [cost.kv_bytes + cost.state_bytes for cost in costs if cost is not None]
    assert totals[1] == totals[2] < totals[0]
    assert scored.full_fraction == control.full_fraction == 0.25


def test_the_control_is_the_median_of_the_random_plans(out: Path) -> None:
    damages = json.loads((out / "ranking.json").read_text())
    median = sorted(damages, key=lambda name: damages[name])[1]
    parent = json.loads((out / "converted" / median / "config.json").read_text())
    used = json.loads((out / "random" / "config.json").read_text())
    assert used["plan"] == parent["plan"]


def test_the_summary_is_drawn_from_the_evaluation(out: Path) -> None:
    data, lines = summary_outcome(out)
    means = {name: arm["mean"] for name, arm in data["recall"].items()}
    for model in read_results(out / "evaluation").models:
        assert means[model.name] == pytest.approx(model.summary("niah_single", 128).mean)
    assert data["scored_minus_random"] == pytest.approx(means["scored"] - means["random"])
    assert len(lines) == 6
    assert "<html" in (out / "report.html").read_text()


def test_a_second_run_makes_nothing_anew(run: DemoRun, out: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    run.execute(out)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == before
