"""The whole path in one call: score, plan, twins, convert, repair, evaluate, report.

Every step is a verb that writes an artefact below OUT and finds it again, so a run that was stopped
goes on at the first artefact that is missing or half done, and a changed setting is refused where
it first matters.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from hydrahead.core.seeds import derive_seed
from hydrahead.evaluation.report import write_report
from hydrahead.evaluation.runner import evaluate
from hydrahead.model.hub import resolve_model_dir
from hydrahead.pipeline.checks import check_run
from hydrahead.pipeline.run import RunSettings
from hydrahead.plan.files import write_plan
from hydrahead.plan.geometry import ModelGeometry, Unit
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.scoring.run import score
from hydrahead.transfer.convert import convert
from hydrahead.transfer.distill import distill
from hydrahead.transfer.stage_base import DistillConfig


class ScoreStep(RunSettings):
    """How q_heads are scored; see `scoring`."""

    method: str = "counterfactual"
    settings: Mapping[str, Any] = Field(default_factory=dict)
    batch_size: int = 4


class PlanStep(RunSettings):
    """How units are chosen; see `plan.make`."""

    full_fraction: float | None = None
    kv_bytes: tuple[int, int] | None = None
    policy: str = "global_top"
    unit: Unit = "kv_head"
    linear: str = "gated_delta"
    preset: str = "plain"
    min_per_layer: int | None = None


class RepairStep(RunSettings):
    """What a model is trained on, and how; see `transfer.distill`."""

    data: str = "builtin"
    stages: tuple[str, ...] = ("align", "distill")
    config: DistillConfig = DistillConfig()


class EvaluateStep(RunSettings):
    """What models are asked; see `evaluation.runner`."""

    tasks: tuple[str, ...] = ("niah_single", "niah_multikey")
    lengths: tuple[int, ...] = (1024, 2048)
    samples: int = 64
    batch_size: int = 8
    perplexity_text: str | None = None


class ConversionRun(RunSettings):
    """From a checkpoint to a repaired, evaluated hybrid."""

    teacher: str
    score: ScoreStep = ScoreStep()
    plan: PlanStep
    twins: RepairStep | None = None
    """Align all linear heads once before planning; convert then starts from them."""
    repair: RepairStep = RepairStep()
    evaluation: EvaluateStep = EvaluateStep()
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"

    def execute(self, out: Path, *, force: bool = False) -> Path:
        """Run every step; returns the report's path."""
        bench = Workbench(self, out, force=force)
        scores = bench.scores()
        plan = bench.plan("plan", scores)
        model = bench.repaired("model", bench.converted("model", plan))
        evaluation = bench.evaluate([bench.teacher, model])
        return write_report([evaluation, scores], out / "report.html")


class Workbench:
    """The steps of a conversion run, each an artefact below `out`.

    Raises:
        HydraHeadError: a step that cannot work; see `checks.check_run`.
    """

    def __init__(self, run: ConversionRun, out: Path, *, force: bool = False) -> None:
        self._run = run
        self._out = Path(out)
        self._force = force
        self.teacher = resolve_model_dir(run.teacher)
        check_run(run, self.teacher, self._out)

    def scores(self) -> Path:
        """Scores of the teacher's q_heads."""
        step = self._run.score
        settings = dict(step.settings)
        if step.method == "substitution":
            settings["twins"] = self.twins()
        return score(
            self.teacher,
            out=self._out / "scores",
            method=step.method,
            settings=settings,
            batch_size=step.batch_size,
            seed=self._run.seed,
            device=self._run.device,
            dtype=self._run.dtype,
            force=self._force,
        )

    def plan(self, name: str, scores: Path) -> Path:
        """The plan that the run's budget makes of some scores."""
        return self.write_plan(name, HeadScores.load(scores), parents={"scores": scores})

    def write_plan(
        self,
        name: str,
        scores: HeadScores,
        *,
        parents: Mapping[str, Path | str],
        changes: Mapping[str, Any] | None = None,
    ) -> Path:
        """A plan from scores in memory; `changes` replace settings of the run's plan step."""
        settings = {**self._run.plan.model_dump(), **(changes or {})}
        planned = make_plan(scores, **settings)
        path = self._out / "plans" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_plan(
            path,
            planned.plan,
            configuration=planned.configuration,
            report=planned.report,
            parents=parents,
            force=self._force,
        )
        return path

    def twins(self) -> Path | None:
        """The all-linear hybrid, aligned head by head; None if the run has no such step."""
        step = self._run.twins
        if step is None:
            return None
        # Which heads matter plays no part in a plan that keeps none, so any scores do.
        scores = random_scores(ModelGeometry.from_pretrained(self.teacher), seed=0)
        none = {"full_fraction": 0.0, "kv_bytes": None, "policy": "global_top"}
        plan = self.write_plan("all_linear", scores, parents={}, changes=none)
        start = convert(
            self.teacher, plan, self._out / "twins_start", seed=self._run.seed, force=self._force
        )
        return self._distilled(start, step, self._out / "twins")

    def converted(self, name: str, plan: Path) -> Path:
        """The teacher with a plan applied, its linear heads from the twins if there are any."""
        return convert(
            self.teacher,
            plan,
            self._out / "converted" / name,
            twins=self.twins(),
            seed=self._run.seed,
            force=self._force,
        )

    def repaired(self, name: str, hybrid: Path) -> Path:
        """A converted hybrid after its repair."""
        return self._distilled(hybrid, self._run.repair, self._out / name)

    def evaluate(self, models: list[Path]) -> Path:
        """Models side by side."""
        step = self._run.evaluation
        return evaluate(
            models,
            tasks=step.tasks,
            lengths=step.lengths,
            samples=step.samples,
            batch_size=step.batch_size,
            perplexity_text=step.perplexity_text,
            seed=derive_seed(self._run.seed, "evaluate"),
            device=self._run.device,
            dtype=self._run.dtype,
            out=self._out / "evaluation",
            force=self._force,
        )

    def _distilled(self, hybrid: Path, step: RepairStep, out: Path) -> Path:
        config = step.config.model_copy(
            update={"seed": self._run.seed, "device": self._run.device, "dtype": self._run.dtype}
        )
        return distill(
            hybrid,
            teacher=self.teacher,
            data=step.data,
            stages=step.stages,
            config=config,
            out=out,
            force=self._force,
        )
