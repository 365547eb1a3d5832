"""Specs: the table of mixers, reading settings, and what one mixer costs."""

import json

import pytest
from hypothesis import given
from plan_cases import specs

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.specs.base import HeadShape, MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.plan.table import (
    MIXERS,
    parse_settings,
    spec_class,
    spec_from_dict,
    spec_to_dict,
)

SHAPE = HeadShape(num_groups=3, num_heads=6, head_dim=8, hidden_size=64)


@given(specs)
def test_a_spec_survives_json(spec: MixerSpec) -> None:
    data = json.loads(json.dumps(spec_to_dict(spec)))
    again = spec_from_dict(data)
    assert again == spec
    assert hash(again) == hash(spec)
    assert type(again) is type(spec)


@pytest.mark.parametrize("name", MIXERS)
def test_a_name_alone_names_the_class(name: str) -> None:
    assert spec_class(name).model_fields["name"].default == name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ["lack its name"]),
        ({"name": 3}, ["lack its name"]),
        ({"name": "gated_delt"}, ["unknown mixer 'gated_delt'", "did you mean 'gated_delta'?"]),
        ({"name": "zzzz"}, ["full, window, gated_delta, lightning"]),
        ({"name": "window", "windw": 4}, ["unknown key 'windw'", "did you mean 'window'?"]),
        ({"name": "window"}, ["'window' is missing"]),
        ({"name": "window", "window": 0}, ["greater than or equal to 1"]),
        ({"name": "window", "window": True}, ["integer"]),
        ({"name": "window", "window": 4, "sinks": -1}, ["sinks"]),
        ({"name": "window", "window": "4"}, ["integer"]),
        ({"name": "full", "log_length_scale": 1}, ["log_length_scale", "greater than 1"]),
        ({"name": "full", "log_length_scale": float("inf")}, ["log_length_scale"]),
        ({"name": "full", "rope": "yes"}, ["rope"]),
        ({"name": "gated_delta", "conv_size": -1}, ["conv_size"]),
        ({"name": "gated_delta", "chunk_size": 48}, ["power of two"]),
        ({"name": "gated_delta", "chunk_size": 0}, ["power of two"]),
        ({"name": "lightning", "decay": "steep"}, ["decay"]),
    ],
)
def test_bad_settings_are_named(data: dict[str, object], words: list[str]) -> None:
    with pytest.raises(HydraHeadError) as caught:
        spec_from_dict(data, where="plan.json")
    for word in words:
        assert word in str(caught.value)


def test_settings_are_read_from_text() -> None:
    assert parse_settings("lightning") == ("lightning", {})
    assert parse_settings("window: window=128, sinks=4") == ("window", {"window": 128, "sinks": 4})
    name, settings = parse_settings("full:rope=False,log_length_scale=none,output_gate=TRUE")
    assert (name, settings) == (
        "full",
        {"rope": False, "log_length_scale": None, "output_gate": True},
    )
    for text in ("window:128", "window:=3", "window:window=1,window=2"):
        with pytest.raises(HydraHeadError, match="cannot read the setting"):
            parse_settings(text)


@pytest.mark.parametrize(
    ("spec", "kv_bytes", "state_bytes", "flops"),
    [
        # 2 (k and v) x 3 groups x 8 wide x 10 tokens x 2 bytes; 4 x 6 heads x 8 wide x 11 keys
        (FullSpec(), 960, 0, 2112),
        # 4 tokens in the tail and 2 sinks; the new token sees 4 in the window and 2 sinks
        (WindowSpec(window=4, sinks=2), 576, 0, 1152),
        # the window reaches beyond the 10 tokens, the sinks are still stored; 11 keys are seen
        (WindowSpec(window=64, sinks=2), 1152, 0, 2112),
        # more sinks than tokens
        (WindowSpec(window=4, sinks=99), 1344, 0, 2112),
        (WindowSpec(window=1, sinks=0), 96, 0, 192),
        # 3 states of 8 x 8 fp32, and 3 inputs of (6 + 2 x 3) x 8 channels in bf16;
        # (5 x 3 + 2 x 6) x 64 for the state, 2 x 4 taps x 96 channels for the convolution
        (GatedDeltaSpec(), 0, 768 + 576, 1728 + 768),
        (GatedDeltaSpec(conv_size=1), 0, 768, 1728 + 192),
        (GatedDeltaSpec(conv_size=0), 0, 768, 1728),
        (LightningSpec(), 0, 768, 1344),
    ],
)
def test_hand_worked_costs(spec: MixerSpec, kv_bytes: int, state_bytes: int, flops: int) -> None:
    assert spec.kv_bytes(SHAPE, 10, 2) == kv_bytes
    assert spec.state_bytes(SHAPE, 10, 2) == state_bytes
    assert spec.flops(SHAPE, 10) == flops


def test_a_wide_window_costs_the_operations_of_full_attention() -> None:
    for context in (0, 1, 5, 100):
        wide = WindowSpec(window=1000, sinks=4)
        assert wide.flops(SHAPE, context) == FullSpec().flops(SHAPE, context)
