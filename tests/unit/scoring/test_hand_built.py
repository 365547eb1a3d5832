"""On circuits written by hand every scorer finds the heads that it must find, and no others.

What theory says of counterfactual scores: only outputs at the readout rows are patched, and senders
reach receivers through their queries there. So the head that fetches the value is a receiver; heads
that fetch what it must ask for are senders, through chains of any length; and a previous-token head
is neither, since its output at the readout rows is the same in both runs and keys stay clean.
Substitution sees that one, and not a look-up by orthogonal keys, which a linear head does just as
well.
"""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hand_built import LOOK_UP_HEADS, PREVIOUS_HEAD, chain_sample, hand_built, twins_of

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.contract import ScoringRun
from hydrahead.scoring.pair_log import PairLog
from hydrahead.scoring.probes import ProbeSet
from hydrahead.scoring.run import make_scorer
from hydrahead.tasks import Sample


def run_of(model: HydraForCausalLM, **changes: Any) -> ScoringRun:
    settings: dict[str, Any] = {
        "geometry": model.config.head_plan.geometry,
        "model": model,
        "codec": None,
        "seed": 0,
        "batch_size": 3,
        "progress": Progress(silent=True),
        "log": PairLog(),
    }
    return ScoringRun(**(settings | changes))


def probe_set(samples: list[Sample]) -> ProbeSet:
    return ProbeSet(capabilities={"retrieval": ("chain",)}, samples={"chain": tuple(samples)})


def counterfactual(links: int, **settings: Any) -> HeadScores:
    scorer = make_scorer("counterfactual", settings)
    samples = [chain_sample(links, seed=seed) for seed in range(4)]
    return scorer.score_on(run_of(hand_built(links)), probe_set(samples))


def found(values: np.ndarray, above: float) -> set[tuple[int, int]]:
    return {(int(layer), int(head)) for layer, head in np.argwhere(values > above)}


@pytest.mark.parametrize("links", [1, 2, 3])
@torch.no_grad()
def test_the_circuits_work(links: int) -> None:
    model = hand_built(links)
    for seed in range(4):
        sample = chain_sample(links, value_tokens=3 if links == 1 else 1, seed=seed)
        for prompt, answer in (
            (sample.prompt_ids, sample.answer_ids),
            (sample.counterfactual.prompt_ids, sample.counterfactual.answer_ids),
        ):
            ids = torch.tensor([[*prompt, *answer[:-1]]])
            said = model(ids).logits[0, len(prompt) - 1 :].argmax(-1).tolist()
            assert tuple(said) == answer


def test_retrieval_finds_the_induction_head() -> None:
    samples = [chain_sample(1, value_tokens=3, seed=seed) for seed in range(4)]
    scores = make_scorer("retrieval").score_on(run_of(hand_built(1)), probe_set(samples))
    assert scores.values[LOOK_UP_HEADS[0]] == 1.0
    assert scores.secondary[LOOK_UP_HEADS[0]] > 0.99
    assert found(scores.values, 0.6) == {LOOK_UP_HEADS[0]}
    assert found(scores.secondary, 0.2) == {LOOK_UP_HEADS[0]}
    assert scores.values[PREVIOUS_HEAD] == 0.0


def test_retrieval_finds_the_head_that_copies_not_those_that_lead_to_it() -> None:
    samples = [chain_sample(3, seed=seed) for seed in range(4)]
    scores = make_scorer("retrieval").score_on(run_of(hand_built(3)), probe_set(samples))
    assert found(scores.values, 0.5) == {LOOK_UP_HEADS[2]}


def test_counterfactual_finds_the_induction_head_as_a_receiver() -> None:
    samples = [chain_sample(1, value_tokens=3, seed=seed) for seed in range(4)]
    scores = make_scorer("counterfactual").score_on(run_of(hand_built(1)), probe_set(samples))
    receiver, sender = scores.extras["receiver"][0], scores.extras["sender"][0]
    assert receiver[LOOK_UP_HEADS[0]] > 0.99
    assert found(receiver, 0.01) == {LOOK_UP_HEADS[0]}
    assert not found(sender, 0.01)
    assert receiver[PREVIOUS_HEAD] == sender[PREVIOUS_HEAD] == 0.0
    assert found(scores.values, 0.0) == {LOOK_UP_HEADS[0]}
    assert scores.kappa[0][LOOK_UP_HEADS[0]] == 1.0
    assert scores.zero_fraction == 7 / 8
    assert scores.secondary[LOOK_UP_HEADS[0]] > 0.99


def test_counterfactual_finds_who_tells_the_receiver_what_to_ask() -> None:
    scores = counterfactual(2)
    receiver, sender = scores.extras["receiver"][0], scores.extras["sender"][0]
    first, last = LOOK_UP_HEADS[:2]
    assert receiver[last] > 0.95 > 0.05 > receiver[first]
    assert sender[first] > 0.95
    assert found(sender, 0.01) == {first}
    assert found(scores.values, 0.01) == {first, last}


def test_the_search_for_senders_goes_on_to_senders_of_senders() -> None:
    scores = counterfactual(3)
    sender = scores.extras["sender"][0]
    assert found(sender, 0.01) == set(LOOK_UP_HEADS[:2])
    assert min(sender[head] for head in LOOK_UP_HEADS[:2]) > 0.95
    search = scores.settings["sender_search"]["retrieval"]
    assert search == {"rounds": 3, "converged": True, "receivers": [1, 2, 3]}

    stopped = counterfactual(3, max_rounds=1)
    assert found(stopped.extras["sender"][0], 0.01) == {LOOK_UP_HEADS[1]}
    assert stopped.settings["sender_search"]["retrieval"]["converged"] is False

    receivers_only = counterfactual(3, max_rounds=0)
    assert not receivers_only.extras["sender"].any()


def test_captures_that_do_not_fit_are_made_again() -> None:
    samples = [chain_sample(2, seed=seed) for seed in range(3)]
    scorer = make_scorer("counterfactual")
    model = hand_built(2)
    kept = scorer.score_on(run_of(model), probe_set(samples))
    again = scorer.score_on(run_of(model, keep_bytes=0, batch_size=1), probe_set(samples))
    np.testing.assert_allclose(again.values, kept.values, atol=1e-6)


def test_pairs_without_a_margin_are_dropped_and_counted() -> None:
    good = [chain_sample(1, value_tokens=3, seed=seed) for seed in range(3)]
    # The answer asked for is not what the prompt says, so nothing falls from clean to corrupted.
    bad = chain_sample(2, seed=0)
    scorer = make_scorer("counterfactual")
    model = hand_built(1)
    scores = scorer.score_on(run_of(model), probe_set([*good, bad]))
    assert scores.settings["dropped_pairs"] == {"chain": 1}
    assert found(scores.values, 0.01) == {LOOK_UP_HEADS[0]}
    with pytest.raises(
        HydraHeadError, match=r"cannot do the retrieval probes at 12 tokens.*margin"
    ):
        scorer.score_on(run_of(model), probe_set([bad]))


@pytest.mark.parametrize("unit", ["kv_head", "q_head"])
def test_substitution_finds_what_a_linear_head_cannot_do(unit: str) -> None:
    """Looking back by one position is beyond these twins; matching orthogonal keys is what they do
    best."""
    damage = substitution(unit=unit)
    wanted = {PREVIOUS_HEAD}
    if unit == "kv_head":
        wanted.add((PREVIOUS_HEAD[0], PREVIOUS_HEAD[1] ^ 1))
    assert found(damage, 1.0) == found(damage, 0.01) == wanted


def test_substitution_finds_a_head_whose_twin_fails() -> None:
    model = hand_built(1)
    twins = twins_of(model)
    layer, head = LOOK_UP_HEADS[0]
    with torch.no_grad():
        values = twins.model.layers[layer].self_attn.mixers[0].projections.v.weight
        values.view(2, -1, values.shape[1])[head // 2].zero_()
    damage = substitution(unit="q_head", twins=twins)
    assert found(damage, 1.0) == found(damage, 0.01) == {PREVIOUS_HEAD, LOOK_UP_HEADS[0]}


def substitution(*, unit: str, twins: HydraForCausalLM | None = None) -> np.ndarray:
    model = hand_built(1)
    samples = [chain_sample(1, value_tokens=3, seed=seed) for seed in range(3)]
    scorer = make_scorer("substitution", {"twins": "twins", "unit": unit})
    scores = scorer.score_on(run_of(model), probe_set(samples), twins or twins_of(model))
    assert scores.values.max() == 1.0
    assert scores.secondary[PREVIOUS_HEAD] > 1.0
    return scores.per_probe[0]


def test_retrieval_needs_a_model_that_recalls() -> None:
    with pytest.raises(HydraHeadError, match="cannot do the probes"):
        make_scorer("retrieval").score_on(run_of(hand_built(1)), probe_set([chain_sample(2)]))


def test_retrieval_needs_tasks_that_copy() -> None:
    sample = dataclasses.replace(chain_sample(1), evidence=())
    with pytest.raises(HydraHeadError, match="repeat no span"):
        make_scorer("retrieval").score_on(run_of(hand_built(1)), probe_set([sample]))
