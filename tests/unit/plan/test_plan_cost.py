"""The cost of whole plans, worked by hand for Qwen3-1.7B."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plan_cases import geometry, plans, qwen3_1_7b

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.cost import PlanCost
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec

KIB, MIB, GIB = 2**10, 2**20, 2**30


def test_full_qwen3_costs_112_kib_a_token() -> None:
    for unit in ("kv_head", "q_head"):
        plan = HeadPlan.all_full(qwen3_1_7b(), unit)
        assert plan.cost(1).kv_bytes == 112 * KIB
        assert plan.cost(512 * 1024) == PlanCost(
            kv_bytes=56 * GIB, state_bytes=0, flops=28 * 4 * 16 * 128 * (512 * 1024 + 1)
        )
        assert plan.cost(1, kv_dtype="float32").kv_bytes == 224 * KIB
        assert plan.cost(1, batch=3).kv_bytes == 336 * KIB
        assert plan.cost(0).kv_bytes == 0


def test_linear_qwen3_costs_the_same_at_any_context() -> None:
    model = qwen3_1_7b()
    bare = HeadPlan.uniform(model, GatedDeltaSpec(conv_size=0))
    # 224 states of 128 x 128 fp32 = 64 KiB each
    assert bare.cost(1).state_bytes == bare.cost(10**6).state_bytes == 14 * MIB
    assert bare.cost(10**6).kv_bytes == 0
    # the tail of a convolution of 4 taps: 28 layers x 3 x (16 + 2 x 8) x 128 channels, bf16
    conv = HeadPlan.uniform(model, GatedDeltaSpec())
    assert conv.cost(1).state_bytes == 14 * MIB + 28 * 3 * 4096 * 2
    assert conv.cost(1, kv_dtype="float32").state_bytes == 14 * MIB + 28 * 3 * 4096 * 4
    # a state per q_head: as the paper's 336 linear heads of 448 take 22 MB, 448 take 29.4
    expanded = HeadPlan.uniform(model, GatedDeltaSpec(conv_size=0, expand_kv=True))
    by_q_head = HeadPlan.uniform(model, GatedDeltaSpec(conv_size=0), "q_head")
    assert expanded.cost(1) == by_q_head.cost(1)
    assert expanded.cost(1).state_bytes == 448 * 64 * KIB
    assert HeadPlan.uniform(model, LightningSpec()).cost(1).state_bytes == 14 * MIB


def test_windows_of_qwen3() -> None:
    plan = HeadPlan.uniform(qwen3_1_7b(), WindowSpec(window=128, sinks=4))
    assert plan.cost(10**6).kv_bytes == 132 * 112 * KIB
    assert plan.cost(100).kv_bytes == 104 * 112 * KIB
    assert plan.cost(2).kv_bytes == 4 * 112 * KIB


def test_the_same_share_of_q_heads_may_keep_twice_the_kv_heads() -> None:
    """56 of 448 q_heads are 12.5 %; paired they keep 12.5 % of the cache, scattered 25 %."""
    model = qwen3_1_7b()
    start = HeadPlan.uniform(model, GatedDeltaSpec(conv_size=0), "q_head")
    paired = {(layer, q): FullSpec() for layer in range(28) for q in (0, 1)}
    scattered = {(layer, q): FullSpec() for layer in range(28) for q in (0, 2)}
    full = HeadPlan.all_full(model).cost(4096)
    for changes, share in ((paired, 0.125), (scattered, 0.25)):
        plan = start.replace(changes)
        assert plan.full_fraction == 0.125
        assert plan.cost(4096).kv_bytes == share * full.kv_bytes
        assert plan.cost(4096).state_bytes == 392 * 64 * KIB
    whole = HeadPlan.uniform(model, GatedDeltaSpec(conv_size=0)).replace(
        {(layer, 0): FullSpec() for layer in range(28)}
    )
    assert whole.cost(4096).kv_bytes == start.replace(paired).cost(4096).kv_bytes
    # kv_head units share one state per group, q_head units cannot
    assert whole.cost(4096).state_bytes == 196 * 64 * KIB


def test_a_kv_head_split_between_two_softmax_mixers_is_stored_by_both() -> None:
    model = geometry(layers=1, kv_heads=1, group=2)
    units = (FullSpec(), WindowSpec(window=4, sinks=0))
    plan = HeadPlan(geometry=model, unit="q_head", layers=(LayerPlan(units=units),))
    assert plan.cost(10).kv_bytes == 2 * 8 * 2 * (10 + 4)


@given(plans(), st.integers(0, 5000), st.integers(1, 4))
def test_costs_add_up(plan: HeadPlan, context: int, batch: int) -> None:
    layers = [plan.layer_cost(layer, context) for layer in range(plan.geometry.num_layers)]
    cost = plan.cost(context, batch)
    assert cost == sum(layers, PlanCost()) * batch
    assert cost.total_bytes == cost.kv_bytes + cost.state_bytes
    assert cost.flops > 0
    assert plan.cost(context + 1, batch).kv_bytes >= cost.kv_bytes


@given(plans(), st.integers(0, 5000))
def test_the_same_plan_by_q_head_costs_no_less(plan: HeadPlan, context: int) -> None:
    if plan.unit == "q_head":
        return
    group = plan.geometry.group_size
    rows = tuple(
        LayerPlan(units=tuple(spec for spec in layer.units for _ in range(group)))
        for layer in plan.layers
    )
    by_q_head = HeadPlan(geometry=plan.geometry, unit="q_head", layers=rows)
    assert by_q_head.full_fraction == plan.full_fraction
    assert by_q_head.cost(context).kv_bytes == plan.cost(context).kv_bytes
    assert by_q_head.cost(context).state_bytes >= plan.cost(context).state_bytes


def test_nonsense_is_refused() -> None:
    plan = HeadPlan.all_full(geometry())
    with pytest.raises(HydraHeadError, match="did you mean 'bfloat16'"):
        plan.cost(1, kv_dtype="bfloat")
    with pytest.raises(HydraHeadError, match="context -1"):
        plan.cost(-1)
