"""Rates by tensor: training behind multipliers is training the folded weights, at any width."""

from typing import Any

import pytest
import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.state_gates import LONGEST_STEP, SHORTEST_STEP
from hydrahead.model.families.falcon_h1 import FAMILY
from hydrahead.model.families.falcon_h1_fold import NEUTRAL, fold_of, fold_table
from hydrahead.model.families.falcon_h1_rates import _stored, learning_rate_scales
from hydrahead.model.families.falcon_h1_start import build_falcon
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.recipes.falcon_h1 import FalconShape
from hydrahead.training.config import TrainConfig
from hydrahead.training.optimiser import MasterAdamW
from tiny_hybrids import PLANS, tiny_hybrid

WIDTH = 16
MULTIPLIERS: dict[str, Any] = {
    "embedding_multiplier": 1.7,
    "lm_head_multiplier": 0.6,
    "key_multiplier": 0.4,
    "attention_in_multiplier": 0.8,
    "attention_out_multiplier": 0.9,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.7,
    "mlp_multipliers": [0.9, 0.6],
    # All chunks alike: a tensor has one rate, and of these it is exact.
    "ssm_multipliers": [0.5] * 5,
}


def config(width: int = WIDTH, **changes: Any) -> dict[str, Any]:
    small = {
        "num_hidden_layers": 2,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_attention_heads": width // 8,
        "num_key_value_heads": width // 8,
        "head_dim": 8,
        "mamba_n_heads": width // 8,
        "mamba_d_ssm": width,
        "mamba_d_state": 4,
        "vocab_size": 61,
        "max_position_embeddings": 64,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "attention_bias": True,
        **MULTIPLIERS,
    }
    return FalconShape(changes={**small, **changes}).config


def built(settings: dict[str, Any]) -> HydraForCausalLM:
    return build_falcon(settings, start="steps", seed=0).double()  # type: ignore[return-value]


def trained(model: HydraForCausalLM, base_width: int, steps: int, lr: float) -> HydraForCausalLM:
    """A few steps on the same tokens; eps is as nothing beside any gradient."""
    scales = learning_rate_scales(model, base_width=base_width)
    settings = TrainConfig(steps=steps, lr=lr, eps=1e-30, clip=None)
    optimiser = MasterAdamW(model, settings, scales)
    draw = torch.Generator().manual_seed(1)
    for _ in range(steps):
        ids = torch.randint(0, 61, (4, 12), generator=draw)
        model(ids, labels=ids, use_cache=False).loss.backward()
        optimiser.gather()
        optimiser.step(lr)
    return model


def test_training_behind_multipliers_is_training_the_folded_weights() -> None:
    plain, folded = built(config()), built(config(**NEUTRAL))
    table = fold_table(FAMILY.to_teacher(plain.config))
    with torch.no_grad():
        for name, parameter in folded.named_parameters():
            factor = fold_of(table, _stored(name))
            value = plain.get_parameter(name)
            parameter.copy_(factor.apply(value, is_bias=name.endswith(".bias")))
    ids = torch.arange(20)[None]
    before = plain(ids).logits
    torch.testing.assert_close(folded(ids).logits, before, rtol=1e-8, atol=1e-8)
    for model in (plain, folded):
        trained(model, WIDTH, steps=5, lr=1e-3)
    with torch.no_grad():
        one, two = plain(ids).logits, folded(ids).logits
    assert (one - before).abs().max() > 0.05, "nothing was learned"
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def _feature_change(width: int, base_width: int) -> float:
    """How far one step moves the final hidden states."""
    neutral = {**NEUTRAL, "initializer_range": 0.5 * width**-0.5, "attention_bias": False}
    model = built(config(width, **neutral))
    ids = torch.randint(0, 61, (4, 12), generator=torch.Generator().manual_seed(2))
    before = model.model(ids, use_cache=False).last_hidden_state
    with torch.enable_grad():
        trained(model, base_width, steps=3, lr=1e-2)
    return (model.model(ids, use_cache=False).last_hidden_state - before).square().mean().item()


def test_the_rule_keeps_the_change_of_features_across_widths() -> None:
    """The coordinate check of muP: with one rate for all, wider models move further and further."""
    widths = (16, 128)
    with_rule = [_feature_change(width, base_width=16) for width in widths]
    without = [_feature_change(width, base_width=width) for width in widths]
    assert with_rule[0] == pytest.approx(without[0])
    assert 0.4 < with_rule[1] / with_rule[0] < 2.0
    assert without[1] / without[0] > 2 * with_rule[1] / with_rule[0]


def test_decay_does_not_depend_on_the_rate_of_a_tensor() -> None:
    model = built(config())
    scales = learning_rate_scales(model, base_width=WIDTH)
    settings = TrainConfig(steps=10, lr=1e-2, weight_decay=0.1)
    optimiser = MasterAdamW(model, settings, scales)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step(1e-2)
    for name in ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight"):
        assert scales[name] == pytest.approx(1 / 0.9 if "gate" in name else 1.0)
        shrunk = model.get_parameter(name) / before[name]
        torch.testing.assert_close(shrunk, torch.full_like(shrunk, 1 - 1e-3))


@pytest.mark.parametrize("start", ["transformers", "steps"])
@torch.no_grad()
def test_two_starts(start: Any) -> None:
    model = build_falcon(config(width=64), start=start, seed=3)
    again = build_falcon(config(width=64), start=start, seed=3)
    mixers = [layer.self_attn.parallel[0] for layer in model.model.layers]  # type: ignore[union-attr]
    for (name, one), (_, two) in zip(
        model.named_parameters(), again.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    for mixer in mixers:
        steps, log_decay = mixer.gates(torch.zeros(1, 1, 8))
        rates = -log_decay / steps
        if start == "transformers":
            torch.testing.assert_close(steps, torch.full_like(steps, 1.3132617))
            torch.testing.assert_close(rates[0, 0], torch.arange(1.0, 9.0))
            assert mixer.conv.weight.std() == pytest.approx(0.02, rel=0.2)
        else:
            assert SHORTEST_STEP <= steps.min() < steps.max() <= LONGEST_STEP
            assert 1 <= rates.min() < rates.max() <= 16
            assert mixer.conv.weight.abs().max() <= 0.5
        assert (mixer.gates.D == 1).all()


def test_other_families_are_refused() -> None:
    model = tiny_hybrid(PLANS["full-0-everywhere"], teacher_config={"model_type": "qwen3"})
    with pytest.raises(HydraHeadError, match="qwen3"):
        learning_rate_scales(model, base_width=8)
