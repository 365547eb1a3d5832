"""A run with learned allocation: every step, and what it refuses before the first."""

from pathlib import Path

import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.pipeline.allocation import AllocateStep, AllocationRun
from hydrahead.pipeline.conversion import EvaluateStep, RepairStep
from hydrahead.plan.files import read_plan
from hydrahead.recipes.demo import SMALL_TEACHER
from hydrahead.transfer.allocation import AllocateConfig
from hydrahead.transfer.stage_base import DistillConfig

ROWS = {"batch_size": 1, "length": 96, "steps": 2}


def tiny_run(**gates: object) -> AllocationRun:
    return AllocationRun(
        teacher=str(SMALL_TEACHER),
        allocation=AllocateStep(
            full_fraction=0.25,
            pair="full:window:window=16,sinks=0",
            config=AllocateConfig(**{**ROWS, **gates}),  # type: ignore[arg-type]
        ),
        repair=RepairStep(
            stages=("distill",),
            config=DistillConfig(train={"distill": {**ROWS, "accumulation": 1}}),
        ),
        evaluation=EvaluateStep(tasks=("niah_single",), lengths=(96,), samples=1),
    )


def test_it_goes_from_gates_to_a_report_and_finds_everything_again(tmp_path: Path) -> None:
    page = tiny_run().execute(tmp_path / "out")
    assert "<svg" in page.read_text()
    plan = read_plan(tmp_path / "out" / "model")
    assert plan.full_fraction == 0.25
    assert plan == read_plan(tmp_path / "out" / "allocation" / "plan.json")
    made = (tmp_path / "out" / "model" / "artifact.json").stat().st_mtime_ns
    tiny_run().execute(tmp_path / "out")
    assert (tmp_path / "out" / "model" / "artifact.json").stat().st_mtime_ns == made


def test_trained_weights_are_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="OUT/model"):
        tiny_run(train_weights=True).execute(tmp_path / "out")
    assert not (tmp_path / "out").exists()
