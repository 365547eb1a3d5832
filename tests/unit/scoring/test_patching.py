"""The token-wise patched runs equal naive patched forwards of the whole model, in fp64, for every
family."""

from pathlib import Path

import pytest
import torch
from naive_patching import NaivePatching, random_pair

from hydrahead.model.loading import load_model
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.scoring.capture import capture_pairs
from hydrahead.scoring.readout import Readout, readout_of
from hydrahead.scoring.receivers import receiver_readouts
from hydrahead.scoring.senders import num_sending_layers, sender_readouts
from hydrahead.scoring.tokenwise import TokenwiseModel
from hydrahead.tasks import Counterfactual, Sample
from tiny_teachers import save_teacher

OPTIONS = [
    ("qwen3", "plain"),
    ("qwen3", "layer_types"),
    ("qwen2", "plain"),
    ("llama", "every_bias_tied"),
    ("llama", "yarn"),
    ("llama", "no_groups"),
    ("mistral", "window"),
    ("mistral", "one_group"),
    ("falcon_h1", "plain"),
    ("falcon_h1", "bias"),
]
BOUND = 1e-10
"""Seen: below 2e-14."""


def teacher(directory: Path, family: str, option: str) -> HydraForCausalLM:
    return load_model(save_teacher(directory, family, option), dtype="float64")


def readout(seed: int = 0, answer: int = 3, prompt: int = 24) -> Readout:
    clean, corrupted, right, wrong = random_pair(67, answer=answer, prompt=prompt, seed=seed)
    sample = Sample(
        task="random",
        prompt_ids=clean,
        answer_ids=right,
        targets=(),
        evidence=(),
        length=40,
        depth=None,
        index=0,
        counterfactual=Counterfactual(prompt_ids=corrupted, answer_ids=wrong),
    )
    return readout_of(sample, 0.9)


@pytest.mark.parametrize(("family", "option"), OPTIONS)
@torch.no_grad()
def test_patching_equals_whole_forwards(tmp_path: Path, family: str, option: str) -> None:
    model = teacher(tmp_path, family, option)
    pair = readout()
    naive = NaivePatching(model, pair)
    (capture,) = capture_pairs(model, [pair], len(pair.clean_ids))
    tokenwise = TokenwiseModel(model)
    heads = range(tokenwise.num_q_heads)
    assert abs(capture.clean - naive.m_clean) < BOUND
    assert abs(capture.corrupted - naive.m_corrupted) < BOUND

    slow = [naive.receiver(layer, head) for layer in naive.layers for head in heads]
    same(receiver_readouts(tokenwise, capture), naive.m_clean, slow)

    receivers = torch.zeros(tokenwise.num_layers, tokenwise.num_q_heads, dtype=torch.bool)
    receivers[2, [0, 3]] = True
    for chain in (False, True):
        if chain:  # a receiver that hears another receiver, and senders that are receivers too
            receivers[1, 1] = receivers[0, 2] = True
        assert num_sending_layers(receivers) == 2
        slow = [naive.sender(layer, head, receivers) for layer in range(2) for head in heads]
        same(sender_readouts(tokenwise, capture, receivers), naive.m_clean, slow)


def same(fast: torch.Tensor, clean: float, slow: list[float]) -> None:
    """Every readout, the clean one first, and not all of them zero effects."""
    assert max(abs(clean - value) for value in slow) > 1e-3
    torch.testing.assert_close(
        fast, torch.tensor([clean, *slow], dtype=torch.float64), rtol=0, atol=BOUND
    )


@torch.no_grad()
def test_a_pair_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    model = teacher(tmp_path, "qwen3", "layer_types")
    pairs = [readout(1), readout(2, answer=1, prompt=21), readout(3, answer=5, prompt=23)]
    width = max(len(pair.clean_ids) for pair in pairs)
    tokenwise = TokenwiseModel(model)
    together = capture_pairs(model, pairs, width)
    for pair, capture in zip(pairs, together, strict=True):
        (alone,) = capture_pairs(model, [pair], len(pair.clean_ids))
        torch.testing.assert_close(
            receiver_readouts(tokenwise, capture),
            receiver_readouts(tokenwise, alone),
            rtol=0,
            atol=1e-10,
        )


@torch.no_grad()
def test_positions_before_the_change_leave_no_trace(tmp_path: Path) -> None:
    """A window too short for the change to reach the answer: every effect is exactly zero."""
    model = load_model(save_teacher(tmp_path, "mistral", "window", sliding_window=2))
    pair = readout(answer=1)
    (capture,) = capture_pairs(model, [pair], len(pair.clean_ids))
    patched = receiver_readouts(TokenwiseModel(model), capture)
    assert capture.clean == capture.corrupted
    assert torch.equal(patched, patched[:1].expand_as(patched))


@torch.no_grad()
def test_half_precision_teachers_are_patched_in_fp32(tmp_path: Path) -> None:
    directory = save_teacher(tmp_path, "qwen3", "plain")
    pair = readout()
    exact = load_model(directory, dtype="float32")
    rounded = load_model(directory, dtype="bfloat16")
    results = []
    for model in (exact, rounded):
        (capture,) = capture_pairs(model, [pair], len(pair.clean_ids))
        results.append(receiver_readouts(TokenwiseModel(model), capture))
    assert results[1].dtype == torch.float32
    effects = [result[0] - result[1:] for result in results]
    torch.testing.assert_close(effects[1], effects[0], rtol=0.1, atol=0.05)
    assert next(rounded.parameters()).dtype == torch.bfloat16
