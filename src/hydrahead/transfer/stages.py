"""The stages of the repair, in the order they run in.

The order is HydraHead's (arXiv 2606.20097), lengths and rates are HALO's (arXiv 2601.22156).
"""

import itertools
from collections.abc import Mapping, Sequence

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import validate
from hydrahead.core.tables import Table
from hydrahead.training.config import TrainConfig
from hydrahead.transfer.stage_base import DistillConfig, Stage

STAGES = Table(
    "stage",
    {
        "align": "hydrahead.transfer.align_stage:AlignStage",
        "distill": "hydrahead.transfer.distill_stage:DistillStage",
        "extend": "hydrahead.transfer.extend_stage:ExtendStage",
    },
)


def check_order(stages: Sequence[str], done: Sequence[str]) -> tuple[str, ...]:
    """The stages to run, after `done` ones.

    Raises:
        HydraHeadError: No stage, an unknown one, one twice, or one that belongs before another that
            is
            named earlier or was already done.
    """
    if not stages:
        raise HydraHeadError("no stage was named", mend=f"known: {', '.join(STAGES)}")
    order = {name: index for index, name in enumerate(STAGES)}
    for name in stages:
        STAGES.target(name)
    for before, after in itertools.pairwise(stages):
        if order[after] <= order[before]:
            mend = f"name stages in the order {', '.join(STAGES)}, each once"
            raise HydraHeadError(f"stage {after!r} cannot come after {before!r}", mend=mend)
    last = max(done, key=order.__getitem__, default=stages[0])
    if order[stages[0]] < order[last]:
        raise HydraHeadError(
            f"this hybrid went through stage {last!r} already, {stages[0]!r} belongs before it",
            mend="start from the converted hybrid, or leave the stage out",
        )
    return tuple(stages)


def load_stage(name: str) -> Stage:
    """The stage of that name."""
    return STAGES.load(name)()


def stage_training(name: str, stage: Stage, config: DistillConfig) -> TrainConfig:
    """Training settings of a stage: its defaults, changed by `config.train[name]`.

    Raises:
        HydraHeadError: An unknown setting, or a value that does not fit.
    """
    changes = dict(config.train.get(name, {}))
    fields = stage.defaults.model_dump()
    if "steps" in changes or "tokens" in changes:
        fields |= {"steps": None, "tokens": None}
    if "lr" in changes and "min_lr" not in changes:
        fields["min_lr"] = min(fields["min_lr"], float(changes["lr"]))
    fields |= {"dtype": config.dtype, "seed": config.seed} | changes
    return validate(TrainConfig, fields, where=f"settings of stage {name!r}")


def check_settings(config: DistillConfig, stages: Sequence[str]) -> Mapping[str, TrainConfig]:
    """Training settings of every stage that will run, in order.

    Raises:
        HydraHeadError: Settings for a stage that is unknown or will not run, or wrong ones.
    """
    for name in config.train:
        STAGES.target(name)
        if name not in stages:
            mend = "add it to the stages, or leave its settings out"
            raise HydraHeadError(
                f"settings are given for stage {name!r}, which is not run", mend=mend
            )
    return {name: stage_training(name, load_stage(name), config) for name in stages}
