"""What a scorer is: settings as plain data, and a function from a model to one number per q_head.

A scorer gets everything it may use in a `ScoringRun` and gives back `HeadScores`. It measures pair
by pair and notes every result in the run's log, which is all that resuming takes.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.pair_log import PairLog
from hydrahead.tasks import TextCodec

KEEP_BYTES = 2 << 30
"""Activations of pairs kept between passes; what does not fit is computed again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoringRun:
    """What a scorer works with."""

    geometry: ModelGeometry
    model: HydraForCausalLM | None
    """The teacher (all-full); None only for scorers that do not run it."""
    codec: TextCodec | None
    seed: int
    batch_size: int
    """Samples per forward. Scores do not depend on it beyond rounding."""
    progress: Progress
    log: PairLog
    keep_bytes: int = KEEP_BYTES

    @property
    def teacher(self) -> HydraForCausalLM:
        """The model of a scorer that runs it."""
        assert self.model is not None, "this scorer was run without a model"
        return self.model

    @property
    def teacher_codec(self) -> TextCodec:
        """The codec of a scorer that draws samples."""
        if self.codec is None:
            raise HydraHeadError("this scoring method needs the model's tokenizer", mend="pass it")
        return self.codec


class Scorer(ABC):
    """Base of every scorer; subclasses name their settings class and their parents."""

    Settings: ClassVar[type[BaseModel]]
    runs_model: ClassVar[bool] = True
    """Whether the teacher's weights and tokenizer are needed."""

    def __init__(self, settings: BaseModel) -> None:
        self.settings = settings

    @abstractmethod
    def score(self, run: ScoringRun) -> HeadScores:
        """Score every q_head of the run's teacher.

        Raises:
            HydraHeadError: settings the model cannot meet, or probes it cannot do.
        """

    def parents(self) -> dict[str, Path]:
        """Artefacts besides the model that the scores are made from."""
        return {}
