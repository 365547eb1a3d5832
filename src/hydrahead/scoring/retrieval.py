"""Retrieval scores (arXiv 2404.15574): does a head look at the very token that is being copied?

The clean answer is forced. At every position that predicts an answer token which stands in the
needle, a head hits if the key it attends to most holds that token in the needle. The score is the
fraction of hits (the paper's), averaged over sub-probes; the attention mass on those keys breaks
ties. Samples of which the model predicts too little of the answer say nothing of its heads: they
are dropped and counted (the paper asks for a ROUGE-1 recall above 0.5, we for half of the forced
answer's tokens).

Only the queries of those positions are used; no t x t matrix is formed.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.capture import run_and_keep
from hydrahead.scoring.contract import Scorer, ScoringRun
from hydrahead.scoring.effects import Effects
from hydrahead.scoring.probes import (
    RETRIEVAL_PROBES,
    Probes,
    ProbeSet,
    ProbeSettings,
    batches,
    draw_probes,
)
from hydrahead.scoring.readout import copied_tokens
from hydrahead.scoring.row_attention import copy_attention
from hydrahead.scoring.split_half import split_half
from hydrahead.scoring.tokenwise import TokenwiseModel
from hydrahead.tasks import Sample

LOOK = "look"


class RetrievalSettings(ProbeSettings):
    """Settings of the retrieval scorer."""

    probes: Probes = Field(default_factory=lambda: {"retrieval": RETRIEVAL_PROBES})
    min_recall: float = Field(default=0.5, ge=0, le=1)
    """Samples of which the model predicts a smaller share of the answer's tokens are dropped."""


class RetrievalScorer(Scorer):
    """Scores heads by where they look while the model copies a needle."""

    Settings: ClassVar[type[RetrievalSettings]] = RetrievalSettings

    def __init__(self, settings: RetrievalSettings) -> None:
        self.settings = settings

    def score(self, run: ScoringRun) -> HeadScores:
        """Draw the samples and score on them."""
        probes = draw_probes(
            self.settings, run.teacher_codec, run.geometry, seed=run.seed, paired=False
        )
        return self.score_on(run, probes)

    def score_on(self, run: ScoringRun, probes: ProbeSet) -> HeadScores:
        """Score on given samples.

        Raises:
            HydraHeadError: the model recalls none of them, or a task copies nothing.
        """
        self._look(run, probes)
        recall = {pair: float(run.log[LOOK, *pair]["recall"]) for pair in probes.pairs()}
        kept = {
            name: [
                number
                for probe, number in probes.pairs((name,))
                if self._recalled(recall[probe, number])
            ]
            for name in probes.names
        }
        names = tuple(name for name in probes.names if kept[name])
        if not names:
            raise HydraHeadError(
                f"the model cannot do the probes: it predicts at most {max(recall.values()):.0%} "
                f"of an answer's tokens, {self.settings.min_recall:.0%} are needed",
                where="retrieval scores",
                mend="try a shorter length, easier probes or a smaller min_recall",
            )
        effects = Effects(run.log, (run.geometry.num_layers, run.geometry.num_q_heads))
        hits = np.stack([effects.mean(LOOK, name, kept[name]) for name in names])
        mass = np.stack([effects.mean(LOOK, name, kept[name], "mass") for name in names])

        def score(selection: Sequence[Sequence[int]]) -> np.ndarray:
            return effects.over(LOOK, dict(zip(names, selection, strict=True)))

        reliability = split_half([kept[name] for name in names], score, seed=run.seed)
        return HeadScores(
            geometry=run.geometry,
            method="retrieval",
            values=hits.mean(axis=0),
            secondary=mass.mean(axis=0),
            probes=names,
            per_probe=hits,
            extras={"attention_mass": mass},
            split_half_reliability=reliability.overall,
            split_half_non_zero=reliability.non_zero,
            settings={
                **self.settings.model_dump(mode="json"),
                "dropped_pairs": {
                    name: len(probes.samples[name]) - len(kept[name]) for name in probes.names
                },
            },
        )

    def _recalled(self, recall: float) -> bool:
        return recall >= self.settings.min_recall

    @torch.no_grad()
    def _look(self, run: ScoringRun, probes: ProbeSet) -> None:
        """One forward per sample; hits, mass and recall go to the log."""
        pairs = probes.pairs()
        todo = run.log.missing(LOOK, pairs)
        bar = run.progress.task("attention", len(pairs), done=len(pairs) - len(todo))
        width = max(len(_tokens(probes[pair])) for pair in pairs)
        for batch in batches(todo, run.batch_size):
            records = _measure(run, [probes[pair] for pair in batch], width)
            for pair, record in zip(batch, records, strict=True):
                run.log.put((LOOK, *pair), record)
                bar.advance()


def _measure(run: ScoringRun, samples: Sequence[Sample], width: int) -> list[dict[str, Any]]:
    """Hit fraction and mass [layer, q_head], and the recall, of every sample of a batch."""
    device = run.teacher.lm_head.weight.device
    tokenwise = TokenwiseModel(run.teacher)
    rows = [_answer_rows(sample).to(device) for sample in samples]
    kept = run_and_keep(
        run.teacher,
        [_tokens(sample) for sample in samples],
        rows,
        width,
        row_sites=("query",),
        full_sites=("key",),
        ends=True,
    )
    records: list[dict[str, Any]] = []
    for sample, positions, tensors in zip(samples, rows, kept, strict=True):
        copies = copied_tokens(sample)
        if not copies:
            raise HydraHeadError(
                "its answers repeat no span of the prompt",
                where=f"sub-probe {sample.task}",
                mend="use a retrieval task, such as niah_single",
            )
        layers = zip(tensors["query"], tensors["key"], tokenwise.reaches, strict=True)
        found = [copy_attention(*layer, positions, copies) for layer in layers]
        records.append(
            {
                "effect": np.stack([hits.mean(axis=0) for _, hits in found]),
                "mass": np.stack([mass.mean(axis=0) for mass, _ in found]),
                "recall": _recall(run, tokenwise, sample, tensors["residual_out"][0]),
            }
        )
    return records


def _tokens(sample: Sample) -> tuple[int, ...]:
    """Prompt and forced answer, its last token left out (nothing is predicted from it)."""
    return sample.prompt_ids + sample.answer_ids[:-1]


def _answer_rows(sample: Sample) -> torch.Tensor:
    """Positions that predict the answer's tokens."""
    first = len(sample.prompt_ids) - 1
    return torch.arange(first, first + len(sample.answer_ids))


def _recall(
    run: ScoringRun, tokenwise: TokenwiseModel, sample: Sample, residual: torch.Tensor
) -> float:
    """Share of the answer's tokens that the model itself would say."""
    normed = tokenwise.final_norm(residual[None].to(tokenwise.dtype))[0]
    said = run.teacher.lm_head(normed.to(run.teacher.lm_head.weight.dtype)).argmax(dim=-1)
    right = torch.tensor(sample.answer_ids, device=said.device)
    return float((said == right).double().mean())
