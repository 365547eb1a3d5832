"""The demo's settings: small enough for two CPU cores and a few minutes, large enough to tell."""

from importlib.resources import files
from pathlib import Path

from hydrahead.pipeline.conversion import EvaluateStep, PlanStep, RepairStep, ScoreStep
from hydrahead.pipeline.demo import DemoRun
from hydrahead.transfer.stage_base import DistillConfig

SMALL_TEACHER = Path(str(files("hydrahead.assets"))) / "small_teacher"
DATA = "builtin:recall=0.6"


def demo(teacher: str | Path = SMALL_TEACHER, device: str = "cpu", seed: int = 0) -> DemoRun:
    """Scored against random heads on the bundled teacher, full_fraction 0.25, recall at 512 tokens.

    Args:
        teacher: another checkpoint to show the same on.
        device: where to run.
        seed: of everything.

    Returns:
        The run configuration.
    """
    return DemoRun(
        teacher=str(teacher),
        score=ScoreStep(settings={"pairs": 8, "length": 256}, batch_size=4),
        plan=PlanStep(full_fraction=0.25),
        twins=RepairStep(
            data=DATA,
            stages=("align",),
            config=DistillConfig(
                align_target="heads",
                train={"align": {"steps": 60, "batch_size": 8, "length": 256, "lr": 3e-3}},
            ),
        ),
        repair=RepairStep(
            data=DATA,
            stages=("distill",),
            config=DistillConfig(
                train={
                    "distill": {
                        "steps": 60,
                        "batch_size": 8,
                        "accumulation": 1,
                        "length": 256,
                        "lr": 4e-4,
                        "warmup_steps": 10,
                    }
                },
            ),
        ),
        evaluation=EvaluateStep(
            tasks=("niah_single", "niah_multikey", "niah_multivalue", "niah_multiquery"),
            lengths=(512,),
            samples=64,
            batch_size=16,
        ),
        seed=seed,
        device=device,
    )
