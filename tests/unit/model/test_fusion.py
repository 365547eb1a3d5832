"""Fusion: the formula, who it touches, and that it is absent where nobody asks for it."""

import math

import torch

from hydrahead.model.fusion import EPS, Fusion, output_rms
from hydrahead.model.taps import record
from tiny_hybrids import PLANS, assert_close, tiny_hybrid, tokens


@torch.no_grad()
def test_formula() -> None:
    """gamma_h * o_h / rms(o_h) on the heads that ask for it, the identity on the others."""
    fusion = Fusion((True, False, False, True)).double()
    fusion.gamma.copy_(torch.tensor([2.0, 5.0, 7.0, -0.5]))
    heads = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    fused = fusion(heads)
    assert torch.equal(fused[:, :, 1:3], heads[:, :, 1:3])
    for slot, gamma in ((0, 2.0), (3, -0.5)):
        for b in range(2):
            for t in range(3):
                head = heads[b, t, slot]
                rms = math.sqrt(head.square().mean().item() + EPS)
                assert_close(fused[b, t, slot], gamma * head / rms)


def test_half_precision_is_computed_in_fp32() -> None:
    fusion = Fusion((True,))
    heads = 300 * torch.randn(1, 2, 1, 64)
    narrow = heads.half()
    assert fusion(narrow).dtype == torch.float16
    torch.testing.assert_close(fusion(narrow).float(), fusion(narrow.float()), rtol=1e-3, atol=0)


def test_a_silent_head_stays_silent_and_trains() -> None:
    heads = torch.zeros(1, 2, 3, 8, requires_grad=True)
    fused = Fusion((True,) * 3)(heads)
    assert (fused == 0).all()
    fused.sum().backward()
    assert heads.grad is not None
    assert torch.isfinite(heads.grad).all()


def test_softmax_only_plans_have_none() -> None:
    for name, plan in PLANS.items():
        model = tiny_hybrid(plan)
        for layer, block in enumerate(model.model.layers):
            wanted = [spec.normalise_output for spec in plan.layers[layer].units]
            assert (block.self_attn.fusion is not None) == any(wanted), name


@torch.no_grad()
def test_calibrated_gamma_gives_the_scale_back() -> None:
    """gamma = RMS of each head's outputs: after fusion every head has that RMS again."""
    model = tiny_hybrid(PLANS["gated_delta-0-everywhere"])
    fusion = model.model.layers[0].self_attn.fusion
    assert fusion is not None
    heads = torch.randn(2, 50, 6, 8, dtype=torch.float64) * torch.logspace(-2, 2, 6)[:, None]
    fusion.gamma.copy_(output_rms(heads))
    torch.testing.assert_close(output_rms(fusion(heads)), output_rms(heads), rtol=1e-2, atol=0)


@torch.no_grad()
def test_it_runs_before_the_heads_tap() -> None:
    model = tiny_hybrid(PLANS["lightning-0-everywhere"])
    fusion = model.model.layers[0].self_attn.fusion
    assert fusion is not None
    with record(model, ["heads"], layers=[0]) as tape:
        model(tokens(), use_cache=False)
    rms = tape["heads", 0].square().mean(-1).sqrt()
    # The very first outputs are small beside the epsilon of the norm.
    gamma = fusion.gamma.abs().double().expand_as(rms)
    assert_close(rms[:, 5:], gamma[:, 5:], 1e-2)
