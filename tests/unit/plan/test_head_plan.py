"""HeadPlan: its rules, its groups and its JSON."""

import json

import pytest
from hypothesis import given
from plan_cases import ParallelSpec, geometry, plans, qwen3_1_7b

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec

FULL, DELTA, SLOPE = FullSpec(), GatedDeltaSpec(), LightningSpec()


@given(plans())
def test_a_plan_survives_json(plan: HeadPlan) -> None:
    assert HeadPlan.from_json(plan.to_json()) == plan
    assert HeadPlan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert "\n" not in plan.to_json()


@given(plans())
def test_every_q_head_is_in_exactly_one_group(plan: HeadPlan) -> None:
    model = plan.geometry
    for layer in range(model.num_layers):
        mixers = plan.layer_mixers(layer)
        assert [mixer.spec for mixer in mixers] == list(dict.fromkeys(plan.layers[layer].units))
        slots = [q for mixer in mixers for q in mixer.q_slots]
        assert sorted(slots) == list(range(model.num_q_heads))
        for mixer in mixers:
            assert list(mixer.groups) == sorted(
                mixer.groups, key=lambda group: (group.kv_head, group.q_heads[0])
            )
            for group in mixer.groups:
                assert set(group.q_heads) <= set(model.q_heads_of(group.kv_head))
                assert list(group.q_heads) == sorted(group.q_heads)
                for q_head in group.q_heads:
                    unit = q_head if plan.unit == "q_head" else group.kv_head
                    assert plan.spec_at(layer, unit) == mixer.spec


@given(plans())
def test_full_fraction_counts_free_units(plan: HeadPlan) -> None:
    free = [spec.name for layer, _, spec in plan.free_units()]
    assert plan.num_free_units == len(free)
    assert plan.num_full_units == free.count("full")
    assert plan.full_fraction == (free.count("full") / len(free) if free else 1.0)


def test_a_big_plan_is_small_on_disk() -> None:
    plan = HeadPlan.all_full(qwen3_1_7b(), "q_head").replace({(3, 5): DELTA})
    assert len(plan.to_json()) < 2500
    assert plan.to_dict()["layers"][3][:7] == [0, 0, 0, 0, 0, 1, 0]


def groups(*pairs: tuple[int, tuple[int, ...]]) -> tuple[HeadGroup, ...]:
    return tuple(HeadGroup(kv_head=kv_head, q_heads=q_heads) for kv_head, q_heads in pairs)


def test_kv_heads_go_whole_unless_the_mixer_expands() -> None:
    model = geometry(layers=1, kv_heads=3, group=2)
    wide = GatedDeltaSpec(expand_kv=True)
    plan = HeadPlan.all_full(model).replace({(0, 0): DELTA, (0, 2): wide})
    first, second, third = plan.layer_mixers(0)
    assert (first.spec, first.groups) == (DELTA, groups((0, (0, 1))))
    assert (second.spec, second.groups) == (FULL, groups((1, (2, 3))))
    assert (third.spec, third.groups) == (wide, groups((2, (4,)), (2, (5,))))
    assert third.kv_slots == (2, 2)
    assert third.q_slots == (4, 5)


def test_split_kv_heads_are_shared_by_softmax_and_copied_by_linear_mixers() -> None:
    model = geometry(layers=1, kv_heads=2, group=3)
    units = (FULL, DELTA, FULL, DELTA, DELTA, WindowSpec(window=4))
    plan = HeadPlan(geometry=model, unit="q_head", layers=(LayerPlan(units=units),))
    full, delta, window = plan.layer_mixers(0)
    assert full.groups == groups((0, (0, 2)))
    assert delta.groups == groups((0, (1,)), (1, (3,)), (1, (4,)))
    assert window.groups == groups((1, (5,)))


def test_specs_that_differ_in_one_setting_are_mixers_of_their_own() -> None:
    plan = HeadPlan.all_full(geometry()).replace({(1, 1): FullSpec(rope=False)})
    assert len(plan.layer_mixers(1)) == 2
    assert plan.slots_of(1, FULL) == (0,)
    assert plan.full_fraction == 1


def test_the_checkpoints_own_windows_are_kept() -> None:
    model = geometry(layers=3, windows=(None, 16, None))
    own = WindowSpec(window=16, sinks=0)
    plan = HeadPlan.uniform(model, DELTA, "q_head")
    assert set(plan.layers[1].units) == {own}
    assert plan.full_fraction == 0
    assert plan.num_free_units == 8
    assert HeadPlan.all_full(model).full_fraction == 1
    for spec in (DELTA, FULL, WindowSpec(window=16), WindowSpec(window=15, sinks=0)):
        with pytest.raises(HydraHeadError, match=r"layer 1.*own window of 16.*sinks=0"):
            plan.replace({(1, 2): spec})
    all_windows = geometry(layers=1, windows=(5,))
    assert HeadPlan.all_full(all_windows).full_fraction == 1


def test_parallel_mixers_take_no_slot() -> None:
    model = geometry(layers=1)
    beside = ParallelSpec()
    plan = HeadPlan(geometry=model, layers=(LayerPlan(units=(FULL, FULL), parallel=(beside,)),))
    assert [mixer.spec for mixer in plan.layer_mixers(0)] == [FULL]
    assert plan.full_fraction == 1
    assert plan.cost(0).state_bytes == 1000 * model.num_q_heads
    assert plan.to_dict()["parallel"] == [[1]]
    assert plan.replace({(0, 0): DELTA}).layers[0].parallel == (beside,)
    with pytest.raises(HydraHeadError, match="cannot take a unit"):
        plan.replace({(0, 0): beside})
    with pytest.raises(HydraHeadError, match="cannot be parallel"):
        HeadPlan(geometry=model, layers=(LayerPlan(units=(FULL, FULL), parallel=(DELTA,)),))


def test_replace_leaves_the_old_plan_alone_and_names_wrong_places() -> None:
    plan = HeadPlan.all_full(geometry())
    changed = plan.replace({(0, 1): DELTA, (2, 0): SLOPE})
    assert plan == HeadPlan.all_full(geometry())
    assert changed.spec_at(0, 1) == DELTA
    assert changed.distinct_specs() == (FULL, DELTA, SLOPE)
    for place in ((3, 0), (-1, 0), (0, 2), (0, -1)):
        with pytest.raises(HydraHeadError, match="there is no kv_head"):
            plan.replace({place: DELTA})


def test_a_plan_is_for_one_model() -> None:
    model = geometry()
    plan = HeadPlan.all_full(model)
    longer = ModelGeometry(**{**model.model_dump(), "max_positions": 9999})
    assert plan.for_geometry(longer).geometry.max_positions == 9999
    other = ModelGeometry(**{**model.model_dump(), "num_layers": 2, "layer_windows": (None, None)})
    with pytest.raises(HydraHeadError, match=r"here: the plan is for .* num_layers is 3, .* 2"):
        plan.require_geometry(other, where="here")


def test_wrong_sizes_are_named() -> None:
    model = geometry()
    with pytest.raises(HydraHeadError, match="2 layers, its geometry 3"):
        HeadPlan(geometry=model, layers=(LayerPlan(units=(FULL, FULL)),) * 2)
    rows = tuple(LayerPlan(units=(FULL,) * count) for count in (2, 3, 2))
    with pytest.raises(HydraHeadError, match=r"layer 1: 3 units given, the layer has 2 kv_heads"):
        HeadPlan(geometry=model, layers=rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": 2}, ["format 2", "only 1"]),
        ({"format_version": None}, ["format None"]),
        ({"unitt": "kv_head"}, ["unknown key 'unitt'", "did you mean 'unit'?"]),
        ({"unit": "head"}, ["unit"]),
        ({"layers": [[0, 0], [0, 0], [0, 1]]}, ["layer 2 names spec 1 of 1"]),
        ({"layers": [[0, 0], [0, 0], [0, -1]]}, ["layer 2 names spec -1"]),
        ({"layers": [[0, 0], [0, 0], [0, True]]}, ["layers.2.1"]),
        ({"layers": [[0, 0], [0, 0]]}, ["2 layers"]),
        ({"layers": [[0, 0], [0, 0], [0]]}, ["layer 2", "1 units given"]),
        ({"layers": "none"}, ["layers"]),
        ({"parallel": [[], []]}, ["parallel has 2 layers"]),
        ({"specs": [{"name": "ful"}]}, ["did you mean 'full'?"]),
        ({"specs": [{"name": "full", "ropes": True}]}, ["did you mean 'rope'?"]),
        ({"specs": ["full"]}, ["specs"]),
        ({"geometry": {}}, ["missing"]),
        ({"geometry": []}, ["geometry"]),
    ],
)
def test_damaged_plans_are_named(change: dict[str, object], words: list[str]) -> None:
    data = {**HeadPlan.all_full(geometry()).to_dict(), **change}
    with pytest.raises(HydraHeadError) as caught:
        HeadPlan.from_json(json.dumps(data), where="my.json")
    assert str(caught.value).startswith("my.json")
    for word in words:
        assert word in str(caught.value)


def test_text_that_is_no_plan_is_named() -> None:
    for text in ("", "{", "[]", "3"):
        with pytest.raises(HydraHeadError, match="plan"):
            HeadPlan.from_json(text)
