"""The demo's path cut short: both arms, equal bytes, the page, nothing done twice."""

import json
import shutil
from pathlib import Path

import pytest

from hydrahead.core.errors import HydraHeadError
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
    damages = json.loads((out / "ranking" / "damages.json").read_text())
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


def test_a_second_run_makes_nothing_anew(
    run: DemoRun, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing is to be measured, so nothing is to be loaded")

    monkeypatch.setattr("hydrahead.pipeline.demo.load_model", refuse)
    before = _written(out)
    run.execute(out)
    assert _written(out) == before
    run.execute(out, force=True)
    assert _written(out) == before


def test_damages_are_of_the_hybrids_that_are_there(
    run: DemoRun, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another seed makes other random plans under the same names."""
    place = shutil.copytree(out, tmp_path / "out")
    other = run.model_copy(update={"seed": 1})
    with pytest.raises(HydraHeadError, match="seed was 0, now 1"):
        other.execute(place)
    damages = iter([0.3, 0.1, 0.2])
    monkeypatch.setattr("hydrahead.pipeline.demo.answer_divergence", lambda *_: next(damages))
    other.execute(place, force=True)
    ranking = json.loads((place / "ranking" / "damages.json").read_text())
    assert ranking == {"random_0": 0.3, "random_1": 0.1, "random_2": 0.2}
    used = json.loads((place / "random" / "config.json").read_text())
    median = json.loads((place / "converted" / "random_2" / "config.json").read_text())
    assert used["plan"] == median["plan"]


def _written(out: Path) -> dict[Path, int]:
    """When each weight and record was written."""
    files = [*out.rglob("*.safetensors"), *out.rglob("artifact.json"), *out.rglob("plans/*")]
    return {path: path.stat().st_mtime_ns for path in files}
