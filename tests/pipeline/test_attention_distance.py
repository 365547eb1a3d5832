"""Attention by distance: our taps and transformers' own weights tell the same."""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_any_causal_lm, load_model
from hydrahead.pipeline.attention_distance import EDGES, attention_distance
from surgery_cases import save_foreign
from tiny_teachers import save_teacher

PROMPTS = [[1, *range(3, 40)], [1, *range(20, 31)]]


@pytest.mark.parametrize("option", ["plain", "one_group", "yarn"])
def test_taps_and_weights_agree(tmp_path: Path, option: str) -> None:
    directory = save_teacher(tmp_path / "teacher", "qwen3", option)
    theirs = AutoModelForCausalLM.from_pretrained(directory, attn_implementation="eager").eval()
    one = attention_distance(load_model(directory), PROMPTS, layers=(0, 2), rows=16)
    other = attention_distance(theirs, PROMPTS, layers=(0, 2), rows=16)
    for ours, reference in zip(one, other, strict=True):
        assert ours.layer == reference.layer
        assert ours.mean_distance == pytest.approx(reference.mean_distance, rel=1e-4)
        assert ours.shares == pytest.approx(reference.shares, abs=1e-5)


def test_known_attention_is_told(tmp_path: Path) -> None:
    """With queries of zero every row looks at all its keys alike."""
    model = load_model(save_teacher(tmp_path / "teacher", "llama"))
    with torch.no_grad():
        for parameter in model.model.layers[1].self_attn.mixers[0].projections.q.parameters():
            parameter.zero_()
    [found] = attention_distance(model, [PROMPTS[0]], layers=(1,), rows=1)
    last = len(PROMPTS[0]) - 1
    assert found.mean_distance == pytest.approx(last / 2, rel=1e-5)
    inside = [min(stop, last + 1) - start for start, stop in itertools.pairwise(EDGES)]
    expected = [max(count, 0) / (last + 1) for count in inside]
    assert found.shares[:-1] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("family", "layer"), [("qwen3_next", 3), ("falcon_h1", 1)])
def test_hybrids_of_transformers_hand_out_weights(tmp_path: Path, family: str, layer: int) -> None:
    directory = save_foreign(tmp_path / family, family)
    model = load_any_causal_lm(directory, attn_implementation="eager")
    [found] = attention_distance(model, [PROMPTS[0]], layers=(layer,), rows=1)
    assert sum(found.shares) == pytest.approx(1, abs=1e-5)
    assert 0 < found.mean_distance < len(PROMPTS[0])


def test_a_layer_without_weights_is_named(tmp_path: Path) -> None:
    model = load_any_causal_lm(save_foreign(tmp_path / "m", "qwen3_next"))  # sdpa hands out none
    with pytest.raises(HydraHeadError, match="layer 3 does not hand out its attention weights"):
        attention_distance(model, [PROMPTS[0]], layers=(3,))
