"""Linear mixers with random parameters, and contexts for them."""

import dataclasses

import torch
from torch import Tensor

from hydrahead.mixers.contract import HeadMixer, MixContext, MixerShape, TeacherHeads
from hydrahead.mixers.gated_delta import GatedDeltaMixer
from hydrahead.mixers.lightning import LightningMixer
from hydrahead.mixers.projections import rope_tables
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec

WIDTH = 8
HIDDEN = 24

SPECS: dict[str, MixerSpec] = {
    "gated_delta": GatedDeltaSpec(),
    "gated_delta_plain": GatedDeltaSpec(conv_size=0, rope=False, qk_norm=False),
    "gated_delta_paper": GatedDeltaSpec(
        output_gate=True, negative_eigenvalues=True, conv_size=2, chunk_size=16
    ),
    "lightning": LightningSpec(),
    "lightning_gated": LightningSpec(rope=False, qk_norm=False, output_gate=True),
}
MIXERS = {"gated_delta": GatedDeltaMixer, "lightning": LightningMixer}


def shape(
    groups: tuple[HeadGroup, ...] = (
        HeadGroup(kv_head=0, q_heads=(0, 1)),
        HeadGroup(kv_head=2, q_heads=(4, 5)),
    ),
    *,
    qk_norm: bool = True,
    attention_bias: bool = True,
) -> MixerShape:
    """Two of four kv_heads of a layer with eight q_heads."""
    return MixerShape(
        groups=groups,
        hidden_size=HIDDEN,
        head_dim=WIDTH,
        num_q_heads=8,
        attention_bias=attention_bias,
        qk_norm=qk_norm,
        norm_eps=1e-6,
    )


def build(name: str, mixer_shape: MixerShape | None = None) -> HeadMixer:
    """A mixer with every parameter random, in fp64 so that laws hold to 1e-10."""
    spec = SPECS[name]
    mixer = MIXERS[spec.name](spec, mixer_shape or shape()).double()
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=draw, dtype=torch.float64))
    return mixer


def teacher_heads(mixer_shape: MixerShape) -> TeacherHeads:
    """Random tensors of a teacher, for this mixer's groups."""
    h, n = mixer_shape.num_heads, mixer_shape.num_groups
    return TeacherHeads(
        q_weight=torch.randn(h, WIDTH, HIDDEN),
        k_weight=torch.randn(n, WIDTH, HIDDEN),
        v_weight=torch.randn(n, WIDTH, HIDDEN),
        q_bias=torch.randn(h, WIDTH) if mixer_shape.attention_bias else None,
        k_bias=torch.randn(n, WIDTH) if mixer_shape.attention_bias else None,
        v_bias=torch.randn(n, WIDTH) if mixer_shape.attention_bias else None,
        q_norm_weight=torch.rand(WIDTH) + 0.5 if mixer_shape.qk_norm else None,
        k_norm_weight=torch.rand(WIDTH) + 0.5 if mixer_shape.qk_norm else None,
    )


def context(
    positions: Tensor,
    *,
    dtype: torch.dtype = torch.float64,
    valid: Tensor | None = None,
    documents: Tensor | None = None,
) -> MixContext:
    """Rope tables for `positions`, as the model makes them."""
    frequencies = 100.0 ** -(torch.arange(0, WIDTH, 2, dtype=torch.float64) / WIDTH)
    angles = positions.unsqueeze(-1) * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = rope_tables(angles.cos().to(dtype), angles.sin().to(dtype))
    return MixContext(
        positions=positions,
        cos=cos,
        sin=sin,
        valid=valid,
        documents=documents,
    )


def cut(whole: MixContext, start: int, stop: int) -> MixContext:
    """The context of some columns."""
    columns = {
        name: value[:, start:stop]
        for name in ("positions", "cos", "sin", "valid")
        if (value := getattr(whole, name)) is not None
    }
    return dataclasses.replace(whole, **columns)
