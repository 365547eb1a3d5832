"""Counterfactual scores: how much of an answer passes through a head (arXiv 2606.20097, Eq. 9-12).

For pairs of prompts that differ in one value, the indirect effect of a head is the share of the
readout's fall m(x) - m(x') that patching this head alone brings about, as a receiver
(`receivers.py`) or as a sender into the current receivers (`senders.py`, `sender_search.py`). Per
capability the score is `max(IE_recv, IE_send) * kappa`; capabilities are brought together by
min-max and the mean (`fusion.py`).

A pair the model cannot do has no effect to measure: pairs with m(x) - m(x') below a margin are
dropped and counted. The tie-break is the attention mass on the token being copied, from the same
runs.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.capture import PairCapture
from hydrahead.scoring.capture_store import CaptureStore
from hydrahead.scoring.contract import Scorer, ScoringRun
from hydrahead.scoring.effects import Effects, fused_score
from hydrahead.scoring.probes import (
    GENERAL_PROBES,
    RETRIEVAL_PROBES,
    Pair,
    Probes,
    ProbeSet,
    ProbeSettings,
    draw_probes,
)
from hydrahead.scoring.readout import copied_tokens, readout_of
from hydrahead.scoring.receivers import receiver_readouts
from hydrahead.scoring.row_attention import copy_attention
from hydrahead.scoring.sender_search import SenderSearch, search_senders
from hydrahead.scoring.senders import sender_readouts
from hydrahead.scoring.split_half import Selection, split_half
from hydrahead.scoring.tokenwise import TokenwiseModel

RECEIVE = "receive"
ROUNDING = 1e-5
"""Effects up to this are rounding (fp32) and count as exactly 0, so that ties are ties."""

Array = np.ndarray
Kept = dict[str, list[int]]
"""Sub-probe -> numbers of the pairs that have a margin."""


class CounterfactualSettings(ProbeSettings):
    """Settings of the counterfactual scorer; defaults are the paper's where it gives them."""

    probes: Probes = Field(
        default_factory=lambda: {"retrieval": RETRIEVAL_PROBES, "general": GENERAL_PROBES}
    )
    decay: float = Field(default=0.9, gt=0, le=1)
    """lambda of Eq. 9: weight of each further answer token."""
    margin: float = Field(default=0.5, gt=0)
    """Pairs with m(x) - m(x') below this (logits) are dropped."""
    threshold: float = Field(default=0.01, ge=0, lt=1)
    """Effect above which a head counts as a receiver, and a sub-probe counts in kappa."""
    max_rounds: int = Field(default=4, ge=0)
    """Most rounds of the search for senders; 0 scores receivers alone."""


class CounterfactualScorer(Scorer):
    """Scores heads by causal patching on counterfactual pairs."""

    Settings: ClassVar[type[CounterfactualSettings]] = CounterfactualSettings

    def __init__(self, settings: CounterfactualSettings) -> None:
        self.settings = settings

    def score(self, run: ScoringRun) -> HeadScores:
        """Draw the pairs and score on them."""
        probes = draw_probes(
            self.settings, run.teacher_codec, run.geometry, seed=run.seed, paired=True
        )
        return self.score_on(run, probes)

    def score_on(self, run: ScoringRun, probes: ProbeSet) -> HeadScores:
        """Score on given pairs: receivers, then senders, then everything put together.

        Raises:
            HydraHeadError: no pair of some capability has the margin.
        """
        passes = _Passes(self.settings, run, probes)
        passes.receive()
        kept = passes.kept()
        capabilities = {
            name: tuple(probe for probe in group if kept[probe])
            for name, group in probes.capabilities.items()
        }
        for name, group in capabilities.items():
            if not group:
                raise self._undoable(name, run, probes)
        effects = Effects(run.log, (run.geometry.num_layers, run.geometry.num_q_heads))
        searches = {
            name: passes.search(name, {probe: kept[probe] for probe in group}, effects)
            for name, group in capabilities.items()
        }
        names = tuple(probe for group in capabilities.values() for probe in group)
        send_phases = {
            probe: searches[name].last_phase
            for name, group in capabilities.items()
            for probe in group
        }

        def roles(chosen: Mapping[str, Sequence[int]]) -> tuple[Array, Array]:
            receiver = effects.role(dict.fromkeys(chosen, RECEIVE), chosen)
            return receiver, effects.role(send_phases, chosen)

        def score(selection: Selection) -> tuple[Array, Array]:
            receiver, sender = roles(dict(zip(names, selection, strict=True)))
            return fused_score(
                capabilities,
                dict(zip(names, receiver, strict=True)),
                dict(zip(names, sender, strict=True)),
                self.settings.threshold,
            )

        everything = [kept[name] for name in names]
        values, kappa = score(everything)
        receiver, sender = roles({name: kept[name] for name in names})
        reliability = split_half(everything, lambda half: score(half)[0], seed=run.seed)
        return HeadScores(
            geometry=run.geometry,
            method="counterfactual",
            values=values,
            secondary=passes.copied_mass({name: kept[name] for name in names}),
            probes=names,
            per_probe=np.maximum(receiver, sender),
            kappa=kappa,
            extras={"receiver": receiver, "sender": sender},
            split_half_reliability=reliability.overall,
            split_half_non_zero=reliability.non_zero,
            settings={
                **self.settings.model_dump(mode="json"),
                "used_probes": {name: list(group) for name, group in capabilities.items()},
                "dropped_pairs": {
                    probe: len(probes.samples[probe]) - len(kept[probe]) for probe in probes.names
                },
                "sender_search": {name: search.report() for name, search in searches.items()},
            },
        )

    def _undoable(self, capability: str, run: ScoringRun, probes: ProbeSet) -> HydraHeadError:
        pairs = probes.pairs(probes.capabilities[capability])
        falls = [_fall(run.log[RECEIVE, *pair]) for pair in pairs]
        length = max(len(probes[pair].prompt_ids) for pair in pairs)
        return HydraHeadError(
            f"the model cannot do the {capability} probes at {length} tokens: the largest of "
            f"{len(falls)} logit differences is {max(falls):.3g}, the margin "
            f"{self.settings.margin:g}",
            where="counterfactual scores",
            mend="try a shorter length, easier probes or a smaller margin, or leave "
            f"{capability} out of the probes",
        )


class _Passes:
    """The passes over the pairs. Each fills the log; none computes what is there already."""

    def __init__(self, settings: CounterfactualSettings, run: ScoringRun, probes: ProbeSet) -> None:
        self.settings, self.run, self.probes = settings, run, probes
        self.tokenwise = TokenwiseModel(run.teacher)
        self.shape = (run.geometry.num_layers, run.geometry.num_q_heads)
        self.store = CaptureStore(
            run.teacher,
            {pair: readout_of(probes[pair], settings.decay) for pair in probes.pairs()},
            batch_size=run.batch_size,
            keep_bytes=run.keep_bytes,
        )

    @torch.no_grad()
    def receive(self) -> None:
        """Clean and corrupted forwards of every pair, and every head patched as a receiver."""
        pairs = self.probes.pairs()
        todo = self.run.log.missing(RECEIVE, pairs)
        bar = self.run.progress.task("receivers", len(pairs), done=len(pairs) - len(todo))
        for pair, capture in self.store.each(todo):
            record: dict[str, object] = {"clean": capture.clean, "corrupted": capture.corrupted}
            if self._has_margin(capture.clean - capture.corrupted):
                patched = receiver_readouts(self.tokenwise, capture)
                record["effect"] = self._effect(patched, capture)
                record["mass"] = self._mass(pair, capture)
            self.run.log.put((RECEIVE, *pair), record)
            bar.advance()

    def kept(self) -> Kept:
        """The pairs that have a margin; the others are forgotten."""
        kept: Kept = {probe: [] for probe in self.probes.names}
        for probe, number in self.probes.pairs():
            if self._has_margin(_fall(self.run.log[RECEIVE, probe, number])):
                kept[probe].append(number)
            else:
                self.store.drop((probe, number))
        return kept

    def search(self, capability: str, chosen: Kept, effects: Effects) -> SenderSearch:
        """Senders of one capability."""
        pairs = [(probe, number) for probe, numbers in chosen.items() for number in numbers]

        @torch.no_grad()
        def send(phase: str, receivers: torch.Tensor) -> None:
            todo = self.run.log.missing(phase, pairs)
            bar = self.run.progress.task(phase, len(pairs), done=len(pairs) - len(todo))
            for pair, capture in self.store.each(todo):
                patched = sender_readouts(self.tokenwise, capture, receivers)
                self.run.log.put((phase, *pair), {"effect": self._effect(patched, capture)})
                bar.advance()

        return search_senders(
            capability,
            chosen,
            effects,
            send,
            first=effects.over(RECEIVE, chosen),
            threshold=self.settings.threshold,
            max_rounds=self.settings.max_rounds,
        )

    def copied_mass(self, chosen: Kept) -> Array:
        """[layer, q_head]: attention on the copied token, over the sub-probes that copy one."""
        means: list[Array] = []
        for probe, numbers in chosen.items():
            masses = [self.run.log[RECEIVE, probe, number]["mass"] for number in numbers]
            found = [np.asarray(mass) for mass in masses if mass is not None]
            if found:
                means.append(np.mean(found, axis=0))
        return np.mean(means, axis=0) if means else np.zeros(self.shape)

    def _has_margin(self, fall: float) -> bool:
        return fall >= self.settings.margin

    def _effect(self, readouts: torch.Tensor, capture: PairCapture) -> Array:
        """[layer, q_head]: the share of the fall each patched run brings about, clipped to [0, 1].

        `readouts` holds the clean run and then heads layer by layer; heads beyond its end have no
        effect.
        """
        share = (readouts[0] - readouts[1:]) / (capture.clean - capture.corrupted)
        effect = np.zeros(self.shape)
        effect.flat[: len(share)] = np.clip(share.double().cpu().numpy(), 0.0, 1.0)
        effect[effect <= ROUNDING] = 0.0
        return effect

    def _mass(self, pair: Pair, capture: PairCapture) -> Array | None:
        """Attention on the copied token at the readout rows; None where nothing is copied."""
        sample = self.probes[pair]
        source = {len(sample.prompt_ids) - 1 + place: at for place, at in copied_tokens(sample)}
        copies = [(row, source[at]) for row, at in enumerate(capture.rows.tolist()) if at in source]
        if not copies:
            return None
        layers = zip(capture.queries, capture.keys, self.tokenwise.reaches, strict=True)
        attention = [copy_attention(*layer, capture.rows, copies) for layer in layers]
        return np.stack([mass.mean(axis=0) for mass, _ in attention])


def _fall(record: Mapping[str, float]) -> float:
    """m(x) - m(x') of a logged pair."""
    return record["clean"] - record["corrupted"]
