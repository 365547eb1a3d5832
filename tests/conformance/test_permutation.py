"""Law 10: permuting heads with their weights changes nothing.

A mixer is built a second time with its groups (and the q_heads within them) in another order, its
parameters moved by its own `row_layout`: its outputs must be the old ones in the new order.
"""

import pytest
import torch
from torch import Tensor

from hydrahead.mixers.build import build_mixer, mixer_shape
from hydrahead.mixers.contract import HeadMixer, MixContext
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.grouping import assign_mixers
from tiny_hybrids import GEOMETRY, PLANS, SPECS, assert_close, tiny_hybrid

SLOT_SPECS = [name for name, spec in SPECS.items() if spec.takes_slots]


def build(name: str, groups: tuple[HeadGroup, ...]) -> HeadMixer:
    shape = mixer_shape(
        groups,
        hidden_size=GEOMETRY.hidden_size,
        head_dim=GEOMETRY.head_dim,
        num_q_heads=GEOMETRY.num_q_heads,
        attention_bias=True,
        qk_norm=True,
        norm_eps=1e-6,
    )
    return build_mixer(SPECS[name], shape)


def context(rows: int, length: int) -> MixContext:
    positions = torch.arange(length).expand(rows, -1)
    angles = positions[..., None] * torch.logspace(0, -3, GEOMETRY.head_dim // 2)
    both = torch.cat((angles, angles), dim=-1).double()
    return MixContext(positions=positions, cos=both.cos(), sin=both.sin())


def moved(parameter: Tensor, order: list[int]) -> Tensor:
    """Rows of whole heads in another order."""
    return parameter.unflatten(0, (len(order), -1))[order].flatten(0, 1)


@pytest.mark.parametrize("name", SLOT_SPECS)
@torch.no_grad()
def test_heads_in_another_order(name: str) -> None:
    units = (SPECS[name],) * GEOMETRY.num_kv_heads
    groups = assign_mixers(GEOMETRY, "kv_head", units)[0].groups
    group_order = list(reversed(range(len(groups))))
    slots = [q for group in groups for q in group.q_heads]
    turned = tuple(
        HeadGroup(kv_head=groups[i].kv_head, q_heads=tuple(reversed(groups[i].q_heads)))
        for i in group_order
    )
    head_order = [slots.index(q) for group in turned for q in group.q_heads]

    first, second = build(name, groups).double(), build(name, turned).double()
    for parameter in first.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    orders = {"q_head": head_order, "kv_head": group_order}
    assert set(first.row_layout.values()) <= set(orders)
    named = dict(first.named_parameters())
    for key, parameter in second.named_parameters():
        axis = first.row_layout.get(key)
        parameter.copy_(named[key] if axis is None else moved(named[key], orders[axis]))

    hidden = torch.randn(2, 11, GEOMETRY.hidden_size, dtype=torch.float64)
    expected, _ = first(hidden, context(2, 11), None)
    actual, _ = second(hidden, context(2, 11), None)
    assert_close(actual, expected[:, :, head_order])


@pytest.mark.parametrize("name", SLOT_SPECS)
def test_every_row_axis_is_named(name: str) -> None:
    """A parameter that grows with the heads but is in no row layout could not be cut."""
    units = (SPECS[name],) * GEOMETRY.num_kv_heads
    groups = assign_mixers(GEOMETRY, "kv_head", units)[0].groups
    whole, half = build(name, groups), build(name, groups[: len(groups) // 2])
    sizes = dict(half.named_parameters())
    for key, parameter in whole.named_parameters():
        grows = parameter.shape != sizes[key].shape
        assert grows == (key in whole.row_layout), key


@torch.no_grad()
def test_slots_find_their_columns_of_the_output_projection() -> None:
    """The layer puts every mixer's heads back in the teacher's slots."""
    model = tiny_hybrid(PLANS["everything-q_head"])
    for layer in model.model.layers:
        attention = layer.self_attn
        width = GEOMETRY.head_dim
        marks = [torch.tensor(mixer.shape.q_slots) for mixer in attention.mixers]
        outputs = [slots.double()[None, None, :, None].expand(1, 1, -1, width) for slots in marks]
        fusion, attention.fusion = attention.fusion, None
        heads = attention._fuse(outputs)
        attention.fusion = fusion
        assert heads[0, 0, :, 0].tolist() == list(range(GEOMETRY.num_q_heads))
