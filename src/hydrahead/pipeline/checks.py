"""What is wrong with a run, told before its first hour of work and not after it.

Every verb checks its own inputs; a run checks the inputs of all its steps before the first.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydrahead.core.artefacts import artefact_kind
from hydrahead.core.errors import HydraHeadError
from hydrahead.evaluation import grid
from hydrahead.evaluation.subjects import subjects_of
from hydrahead.model.loading import load_tokenizer
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores
from hydrahead.scoring.run import make_scorer
from hydrahead.training.data.sources import build_source
from hydrahead.transfer.stages import check_order, check_settings

if TYPE_CHECKING:
    from hydrahead.pipeline.conversion import ConversionRun, EvaluateStep, RepairStep


def check_out(out: Path) -> None:
    """Refuse a place that is not a run's.

    Raises:
        HydraHeadError: `out` is a file, or an artefact, which a run would write its own into.
    """
    kind = artefact_kind(out)
    if kind is None and not (out.exists() and not out.is_dir()):
        return
    what = "is a file" if kind is None else f"is an artefact of kind {kind!r}"
    raise HydraHeadError(
        f"{what}, a run needs a directory of its own", where=out, mend="choose another --out"
    )


def check_run(run: "ConversionRun", teacher: Path, out: Path) -> None:
    """Refuse a conversion with a step that cannot work, as far as that can be known at once.

    Raises:
        HydraHeadError: `out` is something else, the teacher is no known model, a name or setting
            is wrong, a budget cannot be met, data is missing, or a length does not fit.
    """
    check_out(out)
    geometry = ModelGeometry.from_pretrained(teacher)
    settings = dict(run.score.settings)
    if run.score.method == "substitution":
        if run.twins is None:
            raise HydraHeadError("substitution scores need a step that makes twins", where="twins")
        settings["twins"] = out / "twins"
    make_scorer(run.score.method, settings)
    make_plan(random_scores(geometry, seed=0), **run.plan.model_dump())
    for step in (run.twins, run.repair):
        if step is not None:
            check_repair(step, geometry, teacher)
    check_questions(run.evaluation, teacher, run.seed)


def check_questions(step: "EvaluateStep", teacher: Path, seed: int) -> None:
    """Refuse tasks that do not exist, or lengths that do not fit them or the teacher."""
    tasks = grid.requested_tasks(None, step.tasks)
    cells = grid.plan_cells(tasks, step.lengths, grid.DEFAULT_DEPTHS[:1], samples=1)
    grid.check_lengths(subjects_of([teacher]), cells, seed)


def check_repair(step: "RepairStep", geometry: ModelGeometry, teacher: Path) -> None:
    """Refuse wrong stages or settings, rows longer than the context, and missing data."""
    tokenizer = load_tokenizer(teacher)
    names = check_order(step.stages, ())
    for name, settings in check_settings(step.config, names).items():
        if settings.length > geometry.max_positions:
            raise HydraHeadError(
                f"rows of {settings.length} tokens are longer than the model's context of "
                f"{geometry.max_positions}",
                where=f"settings of stage {name!r}",
                mend="lower length",
            )
        build_source(step.data, tokenizer, length=settings.length, seed=0)
