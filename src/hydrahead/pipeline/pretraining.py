"""A small model from scratch as a run, so that a recipe can be carried out like any other."""

from pathlib import Path
from typing import Generic

from hydrahead.pipeline.run import RunSettings
from hydrahead.training.pretrain import PretrainRun, Shape, pretrain


class PretrainJob(RunSettings, Generic[Shape]):
    """A small model from scratch, on text that is given when the recipe is run."""

    run: PretrainRun[Shape]
    text: Path
    device: str = "cpu"
    workers: int = 0

    def execute(self, out: Path, *, force: bool = False) -> Path:
        """Train; returns the model directory."""
        return pretrain(
            self.run, text=self.text, out=out, device=self.device, workers=self.workers, force=force
        )
