"""Law 10: permuting heads with their weights changes nothing.

A mixer is built a second time with its groups (and the q_heads within them) in another order, its
parameters moved by its own `row_layout`: its outputs must be the old ones in the new order.
"""

import pytest
import torch
from torch import Tensor

from hydrahead.mixers.build import build_mixer, mixer_shape
from hydrahead.mixers.contract import HeadMixer, MixContext, MixerShape, TeacherHeads
from hydrahead.mixers.projections import rope_tables
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.geometry import Unit
from hydrahead.plan.grouping import assign_mixers
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.window import WindowSpec
from tiny_hybrids import GEOMETRY, PLANS, SPECS, assert_close, left_padded, tiny_hybrid

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
    cos, sin = rope_tables(both.cos(), both.sin())
    return MixContext(positions=positions, cos=cos, sin=sin)


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


def teacher_heads(model: HydraForCausalLM, layer: int, shape: MixerShape) -> TeacherHeads:
    """What a mixer of `shape` takes from an all-full model."""
    source = model.model.layers[layer].self_attn.mixers[0].projections
    rows = {
        "q": list(shape.q_slots),
        "k": [group.kv_head for group in shape.groups],
        "v": [group.kv_head for group in shape.groups],
    }
    tensors = {}
    for name, heads in rows.items():
        linear = getattr(source, name)
        tensors[f"{name}_weight"] = linear.weight.unflatten(0, (-1, shape.head_dim))[heads]
        tensors[f"{name}_bias"] = linear.bias.unflatten(0, (-1, shape.head_dim))[heads]
    return TeacherHeads(
        **tensors, q_norm_weight=source.q_norm.weight, k_norm_weight=source.k_norm.weight
    )


SAME = (FullSpec(), WindowSpec(window=1000, sinks=0), WindowSpec(window=999, sinks=3))
"""Three mixers that compute the teacher's attention on short rows."""
ORDERS: dict[str, tuple[Unit, tuple[int, ...]]] = {
    "kv_heads_in_order": ("kv_head", (0, 1)),
    "kv_heads_turned": ("kv_head", (1, 0)),
    "groups_torn": ("q_head", (0, 1, 1, 0, 1, 0)),
    "three_ways": ("q_head", (2, 0, 1, 1, 2, 2)),
    "group_taken_whole": ("q_head", (1, 1, 1, 0, 1, 2)),
}


@pytest.mark.parametrize("name", ORDERS)
@torch.no_grad()
def test_heads_shared_out_among_equal_mixers_compute_the_teacher(name: str) -> None:
    """Every head keeps its weights and its columns of the output projection, whoever runs it."""
    unit, choice = ORDERS[name]
    layer_plan = LayerPlan(units=tuple(SAME[i] for i in choice))
    plan = HeadPlan(geometry=GEOMETRY, unit=unit, layers=(layer_plan,) * GEOMETRY.num_layers)
    teacher, hybrid = tiny_hybrid(PLANS["full-0-everywhere"]), tiny_hybrid(plan, seed=9)
    for key, parameter in hybrid.named_parameters():
        if ".mixers." not in key:
            parameter.copy_(teacher.get_parameter(key))
    for layer, block in enumerate(hybrid.model.layers):
        assert len(block.self_attn.mixers) == len(set(choice))
        for mixer in block.self_attn.mixers:
            mixer.init_from_teacher(teacher_heads(teacher, layer, mixer.shape))
    ids, mask = left_padded()
    padded = [model(ids, attention_mask=mask).logits[mask.bool()] for model in (hybrid, teacher)]
    assert_close(*padded)
    assert_close(hybrid(ids).logits, teacher(ids).logits)
