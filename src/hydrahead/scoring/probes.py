"""What the scorers look at: capabilities, their sub-probes, and seeded samples of each.

A capability ("retrieval", "general") is a set of sub-probes; a sub-probe is a task with settings
("niah_multikey:keys=4") of which a fixed number of samples is drawn. Defaults follow HydraHead
(arXiv 2606.20097): five single- and multi-key retrieval sub-probes of 8 pairs at up to 4096 tokens.
The contents of its general-ability probe are unpublished; ours are the three items of the `general`
task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import derive_seed
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.tasks import Sample, TextCodec, build_task
from hydrahead.tasks.vocabulary import require_vocabulary

DEFAULT_LENGTH = 4096
RETRIEVAL_PROBES = (
    "niah_single",
    "niah_single:digits=6",
    "niah_multikey:keys=2",
    "niah_multikey",
    "niah_multikey:keys=8",
)
GENERAL_PROBES = ("general:item=attribute", "general:item=agreement", "general:item=pattern")

Probes = dict[str, tuple[str, ...]]
"""Capability -> its sub-probes, each a task name with settings."""

Pair = tuple[str, int]
"""(sub-probe, number of the sample in it)"""


class ProbeSettings(BaseModel):
    """Settings every scorer that looks at samples has."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    probes: Probes
    """What is looked at."""
    pairs: int = Field(default=8, ge=1)
    """Samples (with their counterfactuals) per sub-probe."""
    length: int | None = Field(default=None, ge=16)
    """Tokens of prompt and answer; None is 4096 or the model's context, whichever is shorter."""

    @field_validator("probes")
    @classmethod
    def _each_probe_once(cls, probes: Probes) -> Probes:
        names = [name for group in probes.values() for name in group]
        if not names or not all(probes.values()):
            raise ValueError("every capability needs at least one sub-probe")
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            raise ValueError(f"sub-probe {sorted(doubled)[0]!r} is named twice")
        return probes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSet:
    """Samples by sub-probe, and which capability each sub-probe belongs to."""

    capabilities: Mapping[str, tuple[str, ...]]
    samples: Mapping[str, tuple[Sample, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """Every sub-probe, capability by capability."""
        return tuple(name for group in self.capabilities.values() for name in group)

    def pairs(self, names: Sequence[str] | None = None) -> list[Pair]:
        """(sub-probe, number) of every sample of `names` (default: all), in order."""
        names = self.names if names is None else names
        return [(name, number) for name in names for number in range(len(self.samples[name]))]

    def __getitem__(self, pair: Pair) -> Sample:
        return self.samples[pair[0]][pair[1]]


def probe_length(asked: int | None, max_positions: int, *, where: str | Path | None = None) -> int:
    """Tokens of a sample.

    Raises:
        HydraHeadError: more were asked for than the model has positions.
    """
    if asked is None:
        return min(DEFAULT_LENGTH, max_positions)
    if asked > max_positions:
        raise HydraHeadError(
            f"the probes are {asked} tokens long, the model's context is {max_positions}",
            where=where,
            mend=f"ask for a length of at most {max_positions}",
        )
    return asked


def draw_probes(
    settings: ProbeSettings,
    codec: TextCodec,
    geometry: ModelGeometry,
    *,
    seed: int,
    paired: bool,
) -> ProbeSet:
    """The samples of every sub-probe, the same on every machine for a seed.

    Args:
        paired: every sample must have a counterfactual.

    Raises:
        HydraHeadError: a length beyond the model's context or too short for a task, an unknown
            task, a
            task without counterfactuals where they are needed, token ids the model does not have.
    """
    length = probe_length(settings.length, geometry.max_positions)
    stream = derive_seed(seed, "scoring", "probes")
    samples: dict[str, tuple[Sample, ...]] = {}
    for name in (name for group in settings.probes.values() for name in group):
        task = build_task(name)
        drawn = [
            task.sample(codec, length=length, seed=stream, index=index)
            for index in range(settings.pairs)
        ]
        for sample in drawn:
            _check(sample, name, geometry.vocab_size, paired)
        samples[name] = tuple(drawn)
    return ProbeSet(capabilities=settings.probes, samples=samples)


def _check(sample: Sample, probe: str, vocab_size: int, paired: bool) -> None:
    if paired and sample.counterfactual is None:
        raise HydraHeadError(
            "the task has no counterfactual",
            where=f"sub-probe {probe}",
            mend="use niah_single, niah_multikey or general",
        )
    top = max(*sample.prompt_ids, *sample.answer_ids)
    require_vocabulary(top, vocab_size, where=f"sub-probe {probe}")


def batches(pairs: Sequence[Pair], batch_size: int) -> list[list[Pair]]:
    """`pairs` in groups of `batch_size`."""
    return [list(pairs[start : start + batch_size]) for start in range(0, len(pairs), batch_size)]
