"""Substitution scores: how much damage is done when one unit runs its twin.

The twins are the all-linear hybrid, aligned to the teacher. In a clean run of the teacher every
layer's twins get the teacher's own attention input (replay), so a twin is judged by itself and not
by the errors of others. Then unit by unit its output, at every position, is replaced by the twin's
and the layers above run on.

Damage is KL(teacher || patched) in nats per token, at the positions that predict the answer. It
needs no threshold on what the model can do, is never negative, and sees what counterfactual scores
cannot: heads that only prepare keys for others. The rise of the answer's own loss is kept beside it
(`extras`) and breaks ties. Units that cannot be given away (layers with a window of their own) have
no twin and score 0.
"""

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.contract import Scorer, ScoringRun
from hydrahead.scoring.effects import Effects
from hydrahead.scoring.fusion import fuse
from hydrahead.scoring.probes import (
    GENERAL_PROBES,
    RETRIEVAL_PROBES,
    Probes,
    ProbeSet,
    ProbeSettings,
    draw_probes,
)
from hydrahead.scoring.split_half import Selection, split_half
from hydrahead.scoring.twin_runs import SampleRun, load_twins

SUBSTITUTE = "substitute"

Array = np.ndarray


class SubstitutionSettings(ProbeSettings):
    """Settings of the substitution scorer."""

    probes: Probes = Field(
        default_factory=lambda: {"retrieval": RETRIEVAL_PROBES, "general": GENERAL_PROBES}
    )
    twins: Path
    """Directory of the twins: plan with full_fraction 0, converted and aligned."""
    unit: Literal["kv_head", "q_head"] = "kv_head"
    """What is replaced at a time."""


class SubstitutionScorer(Scorer):
    """Scores units by the damage their twins do."""

    Settings: ClassVar[type[SubstitutionSettings]] = SubstitutionSettings

    def __init__(self, settings: SubstitutionSettings) -> None:
        self.settings = settings

    def parents(self) -> dict[str, Path]:
        """The twins."""
        return {"twins": self.settings.twins}

    def score(self, run: ScoringRun) -> HeadScores:
        """Load the twins, draw the samples and score on them.

        Raises:
            HydraHeadError: the twins are of another model, some slot has no linear twin, or the
                model has no slot to give away.
        """
        if not run.geometry.free_layers:
            raise HydraHeadError(
                "every layer has a window of its own, so no unit can be given away",
                where=run.teacher.config.name_or_path or None,
            )
        twins = load_twins(self.settings.twins, run.teacher, run.geometry)
        probes = draw_probes(
            self.settings, run.teacher_codec, run.geometry, seed=run.seed, paired=False
        )
        return self.score_on(run, probes, twins)

    def score_on(self, run: ScoringRun, probes: ProbeSet, twins: HydraForCausalLM) -> HeadScores:
        """Score on given samples and twins."""
        self._substitute(run, probes, twins)
        effects = Effects(run.log, (run.geometry.num_layers, run.geometry.num_q_heads))

        def score(selection: Selection) -> Array:
            chosen = dict(zip(probes.names, selection, strict=True))
            return fuse(
                {
                    name: effects.over(SUBSTITUTE, {probe: chosen[probe] for probe in group})
                    for name, group in probes.capabilities.items()
                }
            )

        everything = [list(range(len(probes.samples[name]))) for name in probes.names]
        numbered = list(zip(probes.names, everything, strict=True))
        rise = np.stack([effects.mean(SUBSTITUTE, *entry, "loss_rise") for entry in numbered])
        reliability = split_half(everything, score, seed=run.seed)
        return HeadScores(
            geometry=run.geometry,
            method="substitution",
            values=score(everything),
            secondary=rise.mean(axis=0),
            probes=probes.names,
            per_probe=np.stack([effects.mean(SUBSTITUTE, *entry) for entry in numbered]),
            extras={"loss_rise": rise},
            split_half_reliability=reliability.overall,
            split_half_non_zero=reliability.non_zero,
            settings=self.settings.model_dump(mode="json", exclude={"twins"}),
        )

    @torch.no_grad()
    def _substitute(self, run: ScoringRun, probes: ProbeSet, twins: HydraForCausalLM) -> None:
        """Every unit of every layer on every sample; damage goes to the log."""
        pairs = probes.pairs()
        todo = run.log.missing(SUBSTITUTE, pairs)
        bar = run.progress.task("twins in place", len(pairs), done=len(pairs) - len(todo))
        for pair in todo:
            sample = SampleRun(run.teacher, twins, probes[pair])
            damage = np.zeros((run.geometry.num_layers, run.geometry.num_q_heads))
            rise = np.zeros_like(damage)
            for layer in run.geometry.free_layers:
                units = self._units(run)
                for start in range(0, len(units), run.batch_size):
                    chunk = units[start : start + run.batch_size]
                    for slots, (kl, loss) in zip(chunk, sample.damage(layer, chunk), strict=True):
                        damage[layer, list(slots)], rise[layer, list(slots)] = kl, loss
            run.log.put((SUBSTITUTE, *pair), {"effect": damage, "loss_rise": rise})
            bar.advance()

    def _units(self, run: ScoringRun) -> list[tuple[int, ...]]:
        """The q_heads of every unit of a layer."""
        geometry = run.geometry
        if self.settings.unit == "q_head":
            return [(slot,) for slot in range(geometry.num_q_heads)]
        return [geometry.q_heads_of(kv_head) for kv_head in range(geometry.num_kv_heads)]
