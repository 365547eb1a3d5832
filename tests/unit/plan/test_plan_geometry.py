"""Geometry: what a config.json says, as transformers' own classes read it."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from plan_cases import QWEN3_1_7B, qwen3_1_7b
from transformers import FalconH1Config, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.mamba2 import Mamba2Spec

CLASSES = {
    "qwen3": Qwen3Config,
    "qwen2": Qwen2Config,
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "falcon_h1": FalconH1Config,
}
SMALL = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 64}
MAMBA: list[dict[str, Any]] = [
    {},
    {"mamba_d_ssm": None, "mamba_expand": 1, "mamba_n_heads": 4},
    {"mamba_d_ssm": 96, "mamba_n_heads": 6, "mamba_d_state": 7, "mamba_n_groups": 2},
    {"mamba_rms_norm": True},
    {"mamba_rms_norm": True, "mamba_norm_before_gate": False, "projectors_bias": True},
    {"mamba_conv_bias": False, "mamba_proj_bias": True, "mamba_d_conv": 2},
    {"time_step_limit": (0.1, 2.0), "ssm_multipliers": [0.1, 0.2, 0.3, 0.4, 0.5]},
    {"ssm_in_multiplier": 0.5, "ssm_out_multiplier": 3.0},
]
CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, {}) for family in CLASSES),
    *((family, {**SMALL, "num_key_value_heads": 2}) for family in CLASSES),
    *((family, {**SMALL, "num_key_value_heads": None}) for family in ("qwen3", "qwen2", "llama")),
    *((family, {**SMALL, "num_key_value_heads": 4, "head_dim": 24}) for family in CLASSES),
    *((family, {"tie_word_embeddings": True}) for family in CLASSES),
    *(
        (family, {**SMALL, "num_key_value_heads": 2, **windows})
        for family in ("qwen2", "qwen3")
        for windows in (
            {"use_sliding_window": True, "max_window_layers": 2},
            {"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 7},
            {"use_sliding_window": True, "max_window_layers": 9},
            {"use_sliding_window": False, "max_window_layers": 0, "sliding_window": 7},
            {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 0},
            {
                "use_sliding_window": True,
                "sliding_window": 5,
                "layer_types": ["sliding_attention", "full_attention"] * 2,
            },
        )
    ),
    ("mistral", {**SMALL, "num_key_value_heads": 2, "sliding_window": None}),
    ("mistral", {**SMALL, "num_key_value_heads": 2, "sliding_window": 9}),
]


def windows_of(config: Any) -> tuple[int | None, ...]:
    """What the family's attention layers do in transformers."""
    if config.model_type in ("llama", "falcon_h1"):
        return (None,) * config.num_hidden_layers
    if config.model_type == "mistral":
        return (config.sliding_window,) * config.num_hidden_layers
    return tuple(
        config.sliding_window if kind == "sliding_attention" else None
        for kind in config.layer_types
    )


@pytest.mark.parametrize(("family", "options"), CASES)
@pytest.mark.parametrize("written", ["as given", "as saved"])
def test_geometry_agrees_with_transformers(
    family: str, options: dict[str, Any], written: str
) -> None:
    config: Any = CLASSES[family](**options)
    data = {"model_type": family, **options} if written == "as given" else config.to_diff_dict()
    geometry = ModelGeometry.from_config(data)
    default_width = config.hidden_size // config.num_attention_heads
    assert geometry.num_layers == config.num_hidden_layers
    assert geometry.num_q_heads == config.num_attention_heads
    assert geometry.num_kv_heads == config.num_key_value_heads
    assert geometry.head_dim == (getattr(config, "head_dim", None) or default_width)
    assert geometry.hidden_size == config.hidden_size
    assert geometry.intermediate_size == config.intermediate_size
    assert geometry.vocab_size == config.vocab_size
    assert geometry.max_positions == config.max_position_embeddings
    assert geometry.tie_word_embeddings == config.tie_word_embeddings
    assert geometry.layer_windows == windows_of(config)


@pytest.mark.parametrize("options", MAMBA)
@pytest.mark.parametrize("written", ["as given", "as saved"])
def test_mamba_heads_agree_with_transformers(options: dict[str, Any], written: str) -> None:
    small = {**SMALL, "num_key_value_heads": 2}
    config: Any = FalconH1Config(**small, **options)
    data = {"model_type": "falcon_h1", **small, **options}
    if written == "as saved":
        data = json.loads(config.to_json_string())
    (spec,) = ModelGeometry.from_config(data).parallel
    assert isinstance(spec, Mamba2Spec)
    assert (spec.heads, spec.head_dim) == (config.mamba_n_heads, config.mamba_d_head)
    assert (spec.state_size, spec.groups) == (config.mamba_d_state, config.mamba_n_groups)
    assert (spec.conv_size, spec.conv_bias) == (config.mamba_d_conv, config.mamba_conv_bias)
    assert (spec.input_bias, spec.output_bias) == (config.mamba_proj_bias, config.projectors_bias)
    assert (spec.norm != "none") == config.mamba_rms_norm
    assert (spec.norm == "before_gate") == (config.mamba_rms_norm and config.mamba_norm_before_gate)
    assert (spec.dt_min, spec.dt_max or math.inf) == tuple(config.time_step_limit)
    assert [factor for factor, _ in spec.chunk_multipliers] == config.ssm_multipliers
    assert spec.input_multiplier == config.ssm_in_multiplier
    assert spec.output_multiplier == config.ssm_out_multiplier


def test_groups_and_free_layers() -> None:
    geometry = ModelGeometry.from_config(
        {**QWEN3_1_7B, "use_sliding_window": True, "max_window_layers": 26, "sliding_window": 64}
    )
    assert geometry.group_size == 2
    assert geometry.q_heads_of(3) == (6, 7)
    assert geometry.kv_head_of(7) == 3
    assert geometry.free_layers == tuple(range(26))
    assert geometry.layer_windows[25:] == (None, 64, 64)
    assert geometry.units_per_layer("q_head") == 16
    assert geometry.units_per_layer("kv_head") == 8


def test_a_directory_a_hybrid_and_a_round_trip(tmp_path: Path) -> None:
    geometry = qwen3_1_7b()
    (tmp_path / "config.json").write_text(json.dumps(QWEN3_1_7B))
    assert ModelGeometry.from_pretrained(tmp_path) == geometry
    assert ModelGeometry.from_pretrained(str(tmp_path)) == geometry
    plan = HeadPlan.all_full(geometry).to_dict()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "hydrahead", "plan": plan}))
    assert ModelGeometry.from_pretrained(tmp_path) == geometry
    assert ModelGeometry.from_dict(json.loads(geometry.model_dump_json())) == geometry


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model_type": "qwen33"}, ["qwen33", "did you mean 'qwen3'?", "llama"]),
        ({"model_type": "gpt2"}, ["gpt2", "qwen3, qwen2, llama, mistral"]),
        ({"model_type": None}, ["None", "qwen3"]),
        ({"num_key_value_heads": 3}, ["num_attention_heads (16)", "num_key_value_heads (3)"]),
        ({"num_hidden_layers": 0}, ["num_hidden_layers is 0"]),
        ({"num_hidden_layers": "28"}, ["num_hidden_layers is '28'"]),
        ({"hidden_size": -1}, ["hidden_size", "greater than 0"]),
        ({"vocab_size": 1.5}, ["vocab_size"]),
        ({"head_dim": None, "hidden_size": "wide"}, ["head_dim"]),
        ({"use_sliding_window": True, "sliding_window": 0}, ["sliding_window is 0"]),
        ({"use_sliding_window": True, "max_window_layers": None}, ["max_window_layers is None"]),
        ({"layer_types": ["full_attention"]}, ["each of the 28 layers"]),
        ({"layer_types": ["full_atention"] * 28}, ["did you mean 'full_attention'?"]),
        ({"layer_types": ["linear_attention"] * 28}, ["linear_attention"]),
        ({"layer_types": ["sliding_attention"] * 28}, ["no window is set"]),
        (
            {"model_type": "mistral", "layer_types": ["full_attention"] * 28},
            ["layer 0", "remove layer_types"],
        ),
        (
            {"model_type": "llama", "layer_types": ["sliding_attention"] * 28},
            ["layer 0", "remove layer_types"],
        ),
        ({"model_type": "hydrahead"}, ["holds no plan"]),
    ],
)
def test_bad_configs_are_named(options: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(HydraHeadError) as caught:
        ModelGeometry.from_config({**QWEN3_1_7B, **options}, where="some/config.json")
    assert str(caught.value).startswith("some/config.json")
    for word in words:
        assert word in str(caught.value)


def test_bad_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "config.json").write_text("[]")
    for model, word in (
        (tmp_path, "holds no config.json"),
        (tmp_path / "list", "holds no JSON object"),
        (tmp_path / "missing", "no such directory"),
        ("./missing", "no such directory"),
        ("a/b/c", "no such directory"),
        ("nobody/nothing-of-this-name", "Hugging Face"),
    ):
        with pytest.raises(HydraHeadError, match=word):
            ModelGeometry.from_pretrained(model)


def test_another_model_is_refused_but_not_another_context_length() -> None:
    geometry = qwen3_1_7b()
    longer = ModelGeometry.from_config({**QWEN3_1_7B, "max_position_embeddings": 131072})
    geometry.require_same(longer, what="the plan")
    wider = ModelGeometry.from_config({**QWEN3_1_7B, "head_dim": 64, "vocab_size": 7})
    with pytest.raises(HydraHeadError, match=r"head_dim is 128, the model's 64"):
        geometry.require_same(wider, what="the plan")
