"""What a recipe returns: a complete, validated configuration that can be carried out."""

from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict


class Run(Protocol):
    """A configuration that can be carried out."""

    def execute(self, out: Path, *, force: bool = False) -> Path:
        """Do everything, or go on where an earlier call stopped; returns what to look at."""
        ...


class RunSettings(BaseModel):
    """Base of run configurations: plain data, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")
