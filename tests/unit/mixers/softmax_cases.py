"""Softmax mixers to test, and the same attention written out head by head and query by query."""

from collections.abc import Callable

import torch
from torch import Tensor

from hydrahead.mixers.attention_base import AttentionMixer
from hydrahead.mixers.build import build_mixer, mixer_shape
from hydrahead.mixers.contract import MixContext
from hydrahead.mixers.projections import rope_tables
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.specs.base import MixerSpec

HIDDEN, WIDTH = 24, 8

UNIFORM = ((0, (0, 1, 2)), (1, (3, 4, 5)))
UNEVEN = ((0, (1,)), (1, (3, 4, 5)), (3, (9, 11)), (5, (16,)))
"""Groups of one, three, two and one q_heads: two runs, out of size order."""
SINGLE = ((2, (6,)),)


def build(spec: MixerSpec, groups: tuple[tuple[int, tuple[int, ...]], ...]) -> AttentionMixer:
    """A random fp64 mixer with biases and per-head norms."""
    shape = mixer_shape(
        tuple(HeadGroup(kv_head=kv, q_heads=qs) for kv, qs in groups),
        hidden_size=HIDDEN,
        head_dim=WIDTH,
        num_q_heads=18,
        attention_bias=True,
        qk_norm=True,
        norm_eps=1e-6,
    )
    mixer = build_mixer(spec, shape).double()
    assert isinstance(mixer, AttentionMixer)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.copy_(0.5 * torch.randn_like(parameter))
    return mixer


def context(
    positions: Tensor,
    *,
    valid: Tensor | None = None,
    past_positions: Tensor | None = None,
    documents: Tensor | None = None,
    attn_implementation: str = "sdpa",
) -> MixContext:
    """A bare context with rotations for the positions."""
    angles = positions[..., None] * torch.logspace(0, -2, WIDTH // 2, dtype=torch.float64)
    both = torch.cat((angles, angles), dim=-1)
    cos, sin = rope_tables(both.cos(), both.sin())
    return MixContext(
        positions=positions,
        cos=cos,
        sin=sin,
        valid=valid,
        past_positions=past_positions,
        documents=documents,
        attn_implementation=attn_implementation,
    )


def projected(mixer: AttentionMixer, hidden: Tensor, where: MixContext) -> tuple[Tensor, ...]:
    """q, k and v as the attention sees them, taken at the taps."""
    seen: dict[str, Tensor] = {}
    handles = [
        getattr(mixer, f"{name}_tap").register_forward_hook(
            lambda _m, _i, out, name=name: seen.__setitem__(name, out)
        )
        for name in ("query", "key", "value")
    ]
    mixer(hidden, where, None)
    for handle in handles:
        handle.remove()
    return seen["query"], seen["key"], seen["value"]


def by_hand(
    mixer: AttentionMixer,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    may_see: Callable[[int, int, int], bool],
) -> Tensor:
    """softmax(q k / sqrt(e)) v, one row, head and query at a time; `may_see(row, query, key)`."""
    out = torch.zeros_like(q)
    of_head = [n for n, group in enumerate(mixer.shape.groups) for _ in group.q_heads]
    for row in range(q.shape[0]):
        for head, group in enumerate(of_head):
            for i in range(q.shape[1]):
                keys = [j for j in range(k.shape[1]) if may_see(row, i, j)]
                if keys:
                    scores = k[row, keys, group] @ q[row, i, head] / WIDTH**0.5
                    out[row, i, head] = torch.softmax(scores, 0) @ v[row, keys, group]
    return out
