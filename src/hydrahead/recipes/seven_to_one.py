"""The paper's headline setting: one head in eight stays full (arXiv 2606.20097)."""

from hydrahead.pipeline.conversion import (
    ConversionRun,
    EvaluateStep,
    PlanStep,
    RepairStep,
    ScoreStep,
)
from hydrahead.plan.geometry import Unit
from hydrahead.transfer.stage_base import DistillConfig


def seven_to_one(
    teacher: str = "Qwen/Qwen3-1.7B",
    data: str = "hf:HuggingFaceFW/fineweb-edu:sample-10BT:train:text",
    device: str = "cuda",
    preset: str = "plain",
    unit: Unit = "kv_head",
) -> ConversionRun:
    """full_fraction 0.125 of a 2B-class checkpoint, in three stages.

    Token counts are those of the paper's default schedule (0.3B, 1B, 1B), lengths and rates HALO's
    (arXiv 2601.22156). The cost is about that of HALO's 1.7B conversion, which reports 91 A800
    hours; this recipe has not been run here to its end, so no result is claimed for it.

    Args:
        teacher: a directory or Hugging Face name.
        data: a data source; the paper trains on FineWeb-Edu.
        device: where to run.
        preset: `plain` keeps the full heads as they are, `paper` changes them as the paper does.
        unit: `kv_head` saves memory, `q_head` is the paper's.

    Returns:
        The run configuration.
    """
    return ConversionRun(
        teacher=teacher,
        score=ScoreStep(settings={"pairs": 8, "length": 4096}),
        plan=PlanStep(full_fraction=0.125, policy="constrained_top", unit=unit, preset=preset),
        repair=RepairStep(
            data=data,
            stages=("align", "distill", "extend"),
            config=DistillConfig(
                train={
                    "align": {"tokens": 300_000_000},
                    "distill": {"tokens": 1_000_000_000},
                    "extend": {"tokens": 1_000_000_000},
                }
            ),
        ),
        evaluation=EvaluateStep(
            tasks=("niah_single", "niah_multikey", "niah_multivalue", "variable_tracking"),
            lengths=(4096, 16384, 32768),
        ),
        device=device,
        dtype="float32" if device == "cpu" else "bfloat16",
    )
