"""The path with learned allocation in one call: allocate, convert, repair, evaluate, report.

Every step is a verb that writes an artefact below OUT and finds it again, as in `conversion`.
"""

from pathlib import Path

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import derive_seed
from hydrahead.evaluation.report import write_report
from hydrahead.evaluation.runner import evaluate
from hydrahead.model.hub import resolve_model_dir
from hydrahead.pipeline.checks import check_out, check_questions, check_repair
from hydrahead.pipeline.conversion import EvaluateStep, RepairStep
from hydrahead.pipeline.run import RunSettings
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.transfer.allocation import AllocateConfig, allocate
from hydrahead.transfer.convert import convert
from hydrahead.transfer.distill import distill


class AllocateStep(RunSettings):
    """How units are chosen; see `transfer.allocation`. Seed and device are the run's."""

    full_fraction: float
    pair: str = "full:window"
    scope: str = "global"
    unit: str = "kv_head"
    twins: str | None = None
    data: str = "builtin"
    config: AllocateConfig = AllocateConfig()


class AllocationRun(RunSettings):
    """From a checkpoint to a repaired, evaluated hybrid whose full units were learned."""

    teacher: str
    allocation: AllocateStep
    repair: RepairStep = RepairStep(stages=("distill",))
    evaluation: EvaluateStep = EvaluateStep()
    seed: int = 0
    device: str = "cpu"

    def execute(self, out: Path, *, force: bool = False) -> Path:
        """Run every step; returns the report's path."""
        teacher = resolve_model_dir(self.teacher)
        self._check(teacher, out)
        step = self.allocation
        where = {"seed": self.seed, "device": self.device}
        twins = None if step.twins is None else Path(step.twins)
        learned = allocate(
            teacher,
            data=step.data,
            out=out / "allocation",
            full_fraction=step.full_fraction,
            pair=step.pair,
            scope=step.scope,
            unit=step.unit,
            twins=twins,
            config=step.config.model_copy(update=where),
            force=force,
        )
        converted = convert(
            teacher,
            learned / "plan.json",
            out / "converted",
            twins=twins,
            seed=self.seed,
            force=force,
        )
        model = distill(
            converted,
            teacher=teacher,
            data=self.repair.data,
            stages=self.repair.stages,
            config=self.repair.config.model_copy(update=where),
            out=out / "model",
            force=force,
        )
        evaluation = evaluate(
            [teacher, model],
            **self.evaluation.model_dump(),
            seed=derive_seed(self.seed, "evaluate"),
            device=self.device,
            dtype=self.repair.config.dtype,
            out=out / "evaluation",
            force=force,
        )
        return write_report([evaluation, learned], out / "report.html")

    def _check(self, teacher: Path, out: Path) -> None:
        """What `allocate`, the first step, would not find out by itself."""
        check_out(out)
        if self.allocation.config.train_weights:
            raise HydraHeadError(
                "a run repairs the teacher's own weights, not those trained with the gates",
                where="allocation.config.train_weights",
                mend="use allocate --train-weights, then convert and distill OUT/model",
            )
        check_repair(self.repair, ModelGeometry.from_pretrained(teacher), teacher)
        check_questions(self.evaluation, teacher, self.seed)
