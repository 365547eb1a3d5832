"""Learned full and window heads (ConSA, arXiv 2606.18056) on the bundled small teacher."""

from hydrahead.pipeline.allocation import AllocateStep, AllocationRun
from hydrahead.pipeline.conversion import EvaluateStep, RepairStep
from hydrahead.recipes.demo import SMALL_TEACHER
from hydrahead.transfer.allocation import AllocateConfig
from hydrahead.transfer.stage_base import DistillConfig


def learned_window(
    teacher: str = str(SMALL_TEACHER),
    full_fraction: float = 0.25,
    window: int = 64,
    scope: str = "global",
    unit: str = "kv_head",
    data: str = "builtin",
    device: str = "cuda",
    gate_steps: int = 400,
    repair_steps: int = 120,
) -> AllocationRun:
    """One arm of the allocation study: gates for 400 steps, the plan, a repair of 2M tokens.

    What the arms reach at equal bytes is in docs/results/allocation.md, with hardware and commit;
    benchmarks/allocation/study.py runs all of them side by side. The multipliers' rate is a third
    of the default: over so few steps a higher one outvotes the task (docs/allocation.md).

    Args:
        teacher: a directory or Hugging Face name.
        full_fraction: share of kv_heads that stay full.
        window: tokens the others see; no sinks, as the paper mentions none.
        scope: global, or layer.
        unit: kv_head, or layer.
        data: a data source, for gates and repair.
        device: where to run.
        gate_steps: of 16 rows of 1024 tokens.
        repair_steps: of the same size.

    Returns:
        The run configuration.
    """
    dtype = "float32" if device == "cpu" else "bfloat16"
    return AllocationRun(
        teacher=teacher,
        allocation=AllocateStep(
            full_fraction=full_fraction,
            pair=f"full:window:window={window},sinks=0",
            scope=scope,
            unit=unit,
            data=data,
            config=AllocateConfig(
                steps=gate_steps, batch_size=16, length=1024, multiplier_lr=0.1, dtype=dtype
            ),
        ),
        repair=RepairStep(
            data=data,
            stages=("distill",),
            config=DistillConfig(
                dtype=dtype,
                train={
                    "distill": {
                        "batch_size": 16,
                        "length": 1024,
                        "accumulation": 1,
                        "steps": repair_steps,
                        "lr": 4e-4,
                        "warmup_steps": max(1, repair_steps // 10),
                    }
                },
            ),
        ),
        evaluation=EvaluateStep(
            tasks=("niah_single", "niah_multikey:keys=8", "niah_multivalue", "mqar"),
            lengths=(1024, 2048),
        ),
        device=device,
    )
