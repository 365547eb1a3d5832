"""Random scores: the control every scorer has to beat, with the same policies and budget."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.scoring.contract import Scorer, ScoringRun


class RandomSettings(BaseModel):
    """None: the seed is the run's."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RandomScorer(Scorer):
    """Uniform scores; the model is not run."""

    Settings: ClassVar[type[RandomSettings]] = RandomSettings
    runs_model: ClassVar[bool] = False

    def __init__(self, settings: RandomSettings) -> None:
        self.settings = settings

    def score(self, run: ScoringRun) -> HeadScores:
        """Scores that depend on the seed and the geometry alone."""
        return random_scores(run.geometry, run.seed)
