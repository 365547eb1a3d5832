"""make_plan: what policies choose, how budgets are met, how ties are counted."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from plan_cases import ScoreCase, geometry, qwen3_1_7b, score_cases, scores_of, units

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.budget import FullFraction, format_bytes, format_tokens, parse_kv_bytes
from hydrahead.plan.geometry import Unit
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.planned import PlannedResult
from hydrahead.plan.policies import POLICIES
from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec

fractions = st.integers(0, 20).map(lambda twentieths: twentieths / 20)
Place = tuple[int, int]


def full_places(plan: HeadPlan) -> set[Place]:
    return {(layer, unit) for layer, unit, spec in plan.free_units() if spec.name == "full"}


def keys(scores: HeadScores, unit: Unit) -> dict[Place, tuple[float, float]]:
    """(value, secondary) of every free unit."""
    secondary = np.zeros_like(scores.values) if scores.secondary is None else scores.secondary
    arrays = [scores.values, secondary]
    if unit == "kv_head":
        arrays = [scores.group_maximum(array) for array in arrays]
    return {
        (layer, index): (float(arrays[0][layer, index]), float(arrays[1][layer, index]))
        for layer in scores.geometry.free_layers
        for index in range(arrays[0].shape[1])
    }


def exchanges(
    chosen: set[Place], everything: set[Place], least: int, most: int
) -> list[tuple[Place, Place]]:
    """Every (chosen, left out) pair whose exchange keeps all layers within the bounds."""
    taken = Counter(layer for layer, _ in chosen)
    return [
        (mine, other)
        for mine, other in product(chosen, everything - chosen)
        if mine[0] == other[0] or (taken[mine[0]] > least and taken[other[0]] < most)
    ]


def bounds_of(policy: str, minimum: int, chosen: int, layers: int, per_layer: int) -> Place:
    """The least and most units per layer that the policy promises, written out again."""
    if policy == "per_layer_top":
        return chosen // layers, -(-chosen // layers)
    return minimum, per_layer


@given(
    score_cases,
    units,
    fractions,
    st.sampled_from(["global_top", "constrained_top", "per_layer_top"]),
)
def test_no_exchange_would_better_the_choice(
    case: ScoreCase, unit: Unit, fraction: float, policy: str
) -> None:
    scores = case.scores()
    minimum = 1 if policy == "constrained_top" else 0
    layers = len(scores.geometry.free_layers)
    count = FullFraction(fraction).count(layers * scores.geometry.units_per_layer(unit))
    assume(count >= minimum * layers)
    result = make_plan(
        scores,
        full_fraction=fraction,
        unit=unit,
        policy=policy,
        min_per_layer=minimum if policy == "constrained_top" else None,
    )
    score, chosen = keys(scores, unit), full_places(result.plan)
    least, most = bounds_of(policy, minimum, count, layers, result.plan.units_per_layer)
    taken = Counter(layer for layer, _ in chosen)
    assert len(chosen) == count == result.num_chosen
    assert all(least <= taken[layer] <= most for layer in scores.geometry.free_layers)
    swaps = exchanges(chosen, set(score), least, most)
    assert all((score[mine], other) >= (score[other], mine) for mine, other in swaps)
    # The ties, by their definition.
    tied = {mine for mine, other in swaps if score[mine][0] == score[other][0]}
    by_order = {mine for mine, other in swaps if score[mine] == score[other]}
    assert (result.ties.total, result.ties.by_order) == (len(tied), len(by_order))
    assert result.free_slots == count - least * layers


@given(score_cases, units, fractions)
def test_layerwise_keeps_the_layers_of_the_highest_mean(
    case: ScoreCase, unit: Unit, fraction: float
) -> None:
    scores = case.scores()
    result = make_plan(scores, full_fraction=fraction, unit=unit, policy="layerwise")
    layers = scores.geometry.free_layers
    means = {layer: float(scores.values[layer].mean()) for layer in layers}
    chosen = {layer for layer, _ in full_places(result.plan)}
    assert len(full_places(result.plan)) == len(chosen) * result.plan.units_per_layer
    assert len(chosen) == FullFraction(fraction).count(len(layers)) == result.num_chosen
    left = set(layers) - chosen
    assert min((means[i] for i in chosen), default=9) >= max((means[i] for i in left), default=-9)


@given(score_cases, units, st.sampled_from(list(POLICIES.names())), st.data())
def test_a_byte_budget_is_never_exceeded_and_never_wasted(
    case: ScoreCase, unit: Unit, policy: str, data: st.DataObject
) -> None:
    scores = case.scores()
    context = data.draw(st.sampled_from([1, 7, 40, 1000]))
    empty = HeadPlan.uniform(scores.geometry, GatedDeltaSpec(), unit).cost(context).total_bytes
    full = HeadPlan.all_full(scores.geometry, unit).cost(context).total_bytes
    limit = data.draw(st.integers(min(empty, full), max(empty, full)))
    minimum = 0 if policy == "constrained_top" else None
    options = {"unit": unit, "policy": policy, "min_per_layer": minimum}
    # One of the two extremes fits, so a plan exists.
    result = make_plan(scores, kv_bytes=(limit, context), **options)
    assert result.plan.cost(context).total_bytes <= limit
    for count in range(result.num_chosen + 1, result.num_items + 1):
        more = make_plan(scores, full_fraction=count / result.num_items, **options)
        assert more.num_chosen == count
        assert more.plan.cost(context).total_bytes > limit


@given(score_cases, units, st.sampled_from(list(POLICIES.names())))
def test_a_larger_share_keeps_what_a_smaller_one_chose(
    case: ScoreCase, unit: Unit, policy: str
) -> None:
    scores = case.scores()
    minimum = 0 if policy == "constrained_top" else None
    before: set[Place] = set()
    for fraction in (0, 0.2, 0.5, 0.7, 1):
        result = make_plan(
            scores, full_fraction=fraction, unit=unit, policy=policy, min_per_layer=minimum
        )
        now = full_places(result.plan)
        assert before <= now
        before = now
    assert result.plan == HeadPlan.all_full(scores.geometry, unit)


@given(st.integers(0, 1000), units, fractions, st.sampled_from(list(POLICIES.names())))
def test_permuting_the_heads_permutes_the_choice(
    seed: int, unit: Unit, fraction: float, policy: str
) -> None:
    model = geometry(layers=3, kv_heads=3, group=2)
    scores = random_scores(model, seed)
    order = np.random.default_rng(seed).permutation(3)
    grouped = scores.values.reshape(3, 3, 2)
    permuted = scores_of(model, grouped[:, order].reshape(3, 6))
    minimum = 0 if policy == "constrained_top" else None
    before, after = (
        make_plan(each, full_fraction=fraction, unit=unit, policy=policy, min_per_layer=minimum)
        for each in (scores, permuted)
    )
    group = 2 if unit == "q_head" else 1
    moved = {
        (layer, int(order[index // group]) * group + index % group)
        for layer, index in full_places(after.plan)
    }
    assert moved == full_places(before.plan)


def test_kv_heads_and_q_heads_of_the_same_scores() -> None:
    model = geometry(layers=2, kv_heads=2, group=2)
    scores = scores_of(model, [[9, 0, 1, 2], [3, 3, 8, 0]])
    by_kv = make_plan(scores, full_fraction=0.5)
    by_q = make_plan(scores, full_fraction=0.5, unit="q_head")
    assert full_places(by_kv.plan) == {(0, 0), (1, 1)}
    assert full_places(by_q.plan) == {(0, 0), (1, 0), (1, 1), (1, 2)}
    assert by_q.report["full_kv_heads"] == 3
    assert "3 of 4 kv_heads are kept" in "\n".join(by_q.lines())


def test_ties_go_to_the_secondary_score_then_to_order() -> None:
    model = geometry(layers=2, kv_heads=4, group=1)
    values = [[5, 0, 0, 0], [0, 0, 0, 0]]
    plain = make_plan(scores_of(model, values), full_fraction=0.5)
    assert full_places(plain.plan) == {(0, 0), (0, 1), (0, 2), (0, 3)}
    assert (plain.ties.by_secondary, plain.ties.by_order) == (0, 3)
    secondary = [[0, 0, 0, 1], [2, 3, 1, 1]]
    ordered = make_plan(scores_of(model, values, secondary), full_fraction=0.5)
    assert full_places(ordered.plan) == {(0, 0), (1, 0), (1, 1), (0, 3)}
    assert (ordered.ties.by_secondary, ordered.ties.by_order) == (2, 1)
    assert "3 of 4 chosen kv_heads share their score with one left out" in "\n".join(
        ordered.lines()
    )
    everything = make_plan(scores_of(model, values), full_fraction=1)
    assert everything.ties.total == 0


def test_an_equal_score_that_the_constraint_keeps_out_is_no_tie() -> None:
    # (1, 1) scores as much as (0, 0), but layer 1 already has its share, or layer 0 only its own.
    even = scores_of(geometry(layers=3, group=1), [[5, 1], [5, 5], [0, 0]])
    result = make_plan(even, full_fraction=1 / 3, policy="per_layer_top")
    assert full_places(result.plan) == {(0, 0), (1, 0)}
    assert result.ties.total == 1
    least = scores_of(geometry(layers=2, group=1), [[3, 0], [9, 3]])
    result = make_plan(least, full_fraction=0.5, policy="constrained_top", min_per_layer=1)
    assert full_places(result.plan) == {(0, 0), (1, 0)}
    assert result.ties.total == 0


def test_the_constraint_leaves_few_slots_free() -> None:
    scores = random_scores(qwen3_1_7b(), 0)
    result = make_plan(scores, full_fraction=0.125, policy="constrained_top", min_per_layer=1)
    assert (result.num_chosen, result.free_slots) == (28, 0)
    default = make_plan(scores, full_fraction=0.125, policy="constrained_top")
    assert (default.min_per_layer, default.free_slots) == (0, 28)
    by_q = make_plan(scores, full_fraction=0.125, policy="constrained_top", unit="q_head")
    assert (by_q.min_per_layer, by_q.num_chosen, by_q.free_slots) == (1, 56, 28)
    assert "28 slots are free" in "\n".join(by_q.lines())
    with pytest.raises(
        HydraHeadError, match=r"takes 28 of 448 q_heads.*0.05 allows 22.*0.0625 or more"
    ):
        make_plan(scores, full_fraction=0.05, policy="constrained_top", unit="q_head")
    twins = make_plan(scores, full_fraction=0, policy="constrained_top", unit="q_head")
    assert twins.plan.full_fraction == 0
    with pytest.raises(HydraHeadError, match="takes 28"):
        make_plan(scores, full_fraction=0, policy="constrained_top", min_per_layer=1)


def test_own_windows_stay_outside() -> None:
    model = geometry(layers=4, kv_heads=2, group=1, windows=(None, 8, None, 8))
    scores = scores_of(model, [[1, 2], [9, 9], [3, 4], [9, 9]])
    result = make_plan(scores, full_fraction=0.5)
    assert full_places(result.plan) == {(2, 0), (2, 1)}
    assert result.plan.full_fraction == 0.5
    assert "2 layers keep the checkpoint's own window" in "\n".join(result.lines())
    even = make_plan(scores, full_fraction=0.5, policy="per_layer_top")
    assert full_places(even.plan) == {(0, 1), (2, 1)}
    windows_only = geometry(layers=1, windows=(8,))
    with pytest.raises(HydraHeadError, match="nothing to plan"):
        make_plan(random_scores(windows_only, 0), full_fraction=0.5)


@pytest.mark.parametrize(
    ("fraction", "total", "count"),
    [
        (0, 7, 0),
        (1, 7, 7),
        (0.5, 5, 3),
        (0.145, 100, 15),
        (0.125, 224, 28),
        (0.1, 4, 0),
        (1e-9, 9, 0),
    ],
)
def test_halves_are_rounded_up(fraction: float, total: int, count: int) -> None:
    assert FullFraction(fraction).count(total) == count


def test_both_shares_are_reported() -> None:
    result = make_plan(random_scores(geometry(layers=1, kv_heads=3), 0), full_fraction=0.4)
    assert "0.4 asked, 0.3333 realised" in result.lines()[0]
    assert result.report["full_fraction"] == pytest.approx(1 / 3)


def test_a_budget_in_bytes_by_hand() -> None:
    model = qwen3_1_7b()
    scores = random_scores(model, 1)
    # At 32K a full kv_head takes 16 MiB and saves a state of 64 KiB; all linear is 14 MiB.
    linear = "gated_delta:conv_size=0"
    step = 16 * 2**20 - 64 * 2**10
    for limit, count in ((14 * 2**20 + 10 * step, 10), (14 * 2**20 + 11 * step - 1, 10)):
        result = make_plan(scores, kv_bytes=(limit, 32768), linear=linear)
        assert result.num_chosen == count
    with pytest.raises(HydraHeadError, match=rf"the least is {14 * 2**20} bytes, with 0 full"):
        make_plan(scores, kv_bytes=(14 * 2**20 - 1, 32768), linear=linear)
    everything = make_plan(scores, kv_bytes=(2**50, 32768), linear=linear)
    assert everything.plan == HeadPlan.all_full(model)
    wide = make_plan(scores, kv_bytes=(2**31, 32768), linear=linear, kv_dtype="float32")
    assert wide.num_chosen < make_plan(scores, kv_bytes=(2**31, 32768), linear=linear).num_chosen


def test_a_short_context_prefers_what_costs_less() -> None:
    """At 8 tokens keys and values are smaller than a state, so a small budget means full heads."""
    scores = random_scores(geometry(), 0)
    all_full = HeadPlan.all_full(scores.geometry)
    linear = HeadPlan.uniform(scores.geometry, GatedDeltaSpec())
    limit = all_full.cost(1).total_bytes
    assert linear.cost(1).total_bytes > limit
    assert make_plan(scores, kv_bytes=(limit, 1)).plan == all_full


def test_mixers_and_presets() -> None:
    scores = random_scores(geometry(), 0)

    def specs(**options: str) -> tuple[object, ...]:
        return make_plan(scores, full_fraction=0.5, **options).plan.distinct_specs()

    assert set(specs()) == {FullSpec(), GatedDeltaSpec()}
    assert set(specs(linear="lightning")) == {FullSpec(), LightningSpec()}
    assert set(specs(linear="window:window=128,sinks=2")) == {
        FullSpec(),
        WindowSpec(window=128, sinks=2),
    }
    paper = FullSpec(rope=False, log_length_scale=500, output_gate=True, normalise_output=True)
    wide = GatedDeltaSpec(expand_kv=True, output_gate=True)
    assert set(specs(preset="paper")) == {paper, wide}
    # What the user says wins over the preset.
    narrow = GatedDeltaSpec(expand_kv=False, output_gate=True, conv_size=0)
    assert set(specs(preset="paper", linear="gated_delta:expand_kv=false,conv_size=0")) == {
        paper,
        narrow,
    }
    # A plan of softmax mixers alone has no fusion.
    softmax = {spec.name: spec for spec in specs(preset="paper", linear="window:window=9")}
    assert softmax["full"] == paper.model_copy(update={"normalise_output": False})
    assert softmax["window"] == WindowSpec(window=9, output_gate=True)
    given_spec = make_plan(scores, full_fraction=0, linear=WindowSpec(window=3), preset="paper")
    assert given_spec.plan.distinct_specs() == (WindowSpec(window=3),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no budget is given"),
        ({"full_fraction": 0.5, "kv_bytes": (1, 1)}, "two budgets are given"),
        ({"full_fraction": 1.01}, "full_fraction is 1.01"),
        ({"full_fraction": -0.1}, "full_fraction is -0.1"),
        ({"full_fraction": float("nan")}, "full_fraction is nan"),
        ({"kv_bytes": (10, 0)}, "makes no sense"),
        ({"kv_bytes": (10, 100)}, "10 bytes at 100 tokens are too few"),
        ({"full_fraction": 0.5, "policy": "global"}, "did you mean 'global_top'"),
        ({"full_fraction": 0.5, "preset": "plane"}, "did you mean 'plain'"),
        ({"full_fraction": 0.5, "linear": "gated-delt"}, "did you mean 'gated_delta'"),
        ({"full_fraction": 0.5, "linear": "gated_delta:conv=0"}, "did you mean 'conv_size'"),
        ({"full_fraction": 0.5, "linear": "window"}, "key 'window' is missing"),
        ({"full_fraction": 0.5, "linear": "full"}, "full cannot replace full attention"),
        ({"full_fraction": 0.5, "min_per_layer": 1}, "global_top has no min_per_layer"),
        (
            {"full_fraction": 0.5, "policy": "constrained_top", "min_per_layer": 3},
            "a layer has 2 kv_heads",
        ),
        (
            {"full_fraction": 0.5, "policy": "constrained_top", "min_per_layer": -1},
            "min_per_layer is -1",
        ),
    ],
)
def test_bad_requests_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(HydraHeadError, match=words):
        make_plan(random_scores(geometry(), 0), **options)  # pyright: ignore[reportArgumentType]


def test_budgets_are_read_from_text() -> None:
    assert parse_kv_bytes("256M@128K") == (256 * 2**20, 131072)
    assert parse_kv_bytes("1.5GiB@32768") == (3 * 2**29, 32768)
    assert parse_kv_bytes(" 1000 @ 1m ") == (1000, 2**20)
    assert parse_kv_bytes("2kb@10") == (2048, 10)
    for text in ("256M", "256M@", "@8K", "1@2@3", "x@8K", "-1@8K"):
        with pytest.raises(HydraHeadError, match="cannot read the budget"):
            parse_kv_bytes(text)
    assert [format_bytes(count) for count in (5, 2048, 1536 * 2**10, 10 * 2**30, 999 * 2**40)] == [
        "5 B",
        "2.00 KiB",
        "1.50 MiB",
        "10.0 GiB",
        "999 TiB",
    ]
    assert [format_tokens(count) for count in (1000, 8192, 2**20, 3 * 2**19)] == [
        "1000",
        "8K",
        "1M",
        "1536K",
    ]


def test_the_configuration_is_plain_and_decides_the_plan() -> None:
    scores = random_scores(geometry(), 0)
    first: PlannedResult = make_plan(scores, full_fraction=0.5)
    assert first.configuration == make_plan(scores, full_fraction=0.5).configuration
    assert first.configuration["linear"]["conv_size"] == 4
    assert first.configuration["full_fraction"] == 0.5
    second = make_plan(scores, kv_bytes=(10**6, 64), policy="constrained_top", unit="q_head")
    assert second.configuration | {"linear": None} == {
        "kv_bytes": 10**6,
        "context": 64,
        "kv_dtype": "bfloat16",
        "policy": "constrained_top",
        "unit": "q_head",
        "linear": None,
        "preset": "plain",
        "min_per_layer": 1,
    }
