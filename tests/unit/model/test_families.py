"""Law 1 for every family and option: an all-full hybrid equals transformers' own class."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.table import FAMILIES, family_of
from hydrahead.model.families.teacher import open_teacher
from hydrahead.model.loading import load_model
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.transfer.convert import convert
from hydrahead.transfer.export import export
from tiny_teachers import (
    CASES,
    COMMON,
    LONGROPE,
    SIZES,
    YARN,
    padded_batch,
    save_teacher,
    tiny_config,
    tiny_model,
)


def _close(mine: torch.Tensor, theirs: torch.Tensor) -> None:
    bound = 1e-5 * max(1.0, theirs.abs().max().item())
    assert (mine - theirs).abs().max().item() <= bound


@torch.no_grad()
def _same_logits(mine: PreTrainedModel, theirs: PreTrainedModel) -> None:
    """With and without left padding, on rows longer than any window of the cases."""
    ids, mask, positions = padded_batch(theirs.config.vocab_size)
    _close(mine(input_ids=ids).logits, theirs(input_ids=ids).logits)
    ours = mine(input_ids=ids, attention_mask=mask).logits
    want = theirs(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    real = mask.bool()
    _close(ours[real], want[real])


@pytest.mark.matrix
@pytest.mark.parametrize(("family", "option"), CASES)
def test_all_full_equals_transformers(tmp_path: Path, family: str, option: str) -> None:
    directory = save_teacher(tmp_path / "teacher", family, option)
    for attention in ("eager", "sdpa"):
        theirs = AutoModelForCausalLM.from_pretrained(directory, attn_implementation=attention)
        mine = load_model(directory, attn_implementation=attention)
        assert mine.config.model_type == "hydrahead"
        _same_logits(mine, theirs.eval())


@pytest.mark.matrix
@pytest.mark.parametrize(("family", "option"), CASES)
def test_convert_and_export_come_back(tmp_path: Path, family: str, option: str) -> None:
    directory = save_teacher(tmp_path / "teacher", family, option)
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(directory))
    hybrid = convert(directory, plan, tmp_path / "hybrid")
    back = export(hybrid, tmp_path / "back")

    assert json.loads((back / "config.json").read_text()) == json.loads(
        (directory / "config.json").read_text()
    )
    before = AutoModelForCausalLM.from_pretrained(directory).eval()
    after = AutoModelForCausalLM.from_pretrained(back).eval()
    assert type(after) is type(before)
    ids, _, _ = padded_batch(SIZES["vocab_size"])
    with torch.no_grad():
        assert torch.equal(after(ids).logits, before(ids).logits)
    _same_logits(load_model(hybrid), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_geometry_of_a_plan_is_that_of_the_model(tmp_path: Path, family: str) -> None:
    for option in ("plain", "tied", "wide_heads", "one_group"):
        directory = save_teacher(tmp_path / option, family, option)
        config = open_teacher(directory).config
        geometry = ModelGeometry.from_pretrained(directory)
        assert geometry.num_layers == config.num_hidden_layers
        assert geometry.num_q_heads == config.num_attention_heads
        assert geometry.num_kv_heads == config.num_key_value_heads
        assert geometry.head_dim == config.head_dim
        assert geometry.tie_word_embeddings == config.tie_word_embeddings


LEGACY: dict[str, tuple[str, dict[str, Any]]] = {
    "theta": ("llama", {"rope_theta": 5000.0}),
    "linear by type": ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "yarn": (
        "qwen2",
        {
            "rope_theta": 1000000.0,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama3": (
        "llama",
        {
            "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "null scaling": ("qwen3", {"rope_theta": 1000000, "rope_scaling": None}),
    "window without layer_types": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    ),
    "mistral": ("mistral", {"rope_theta": 10000.0, "sliding_window": 6}),
    "yarn as long-context Llamas write it": (
        "llama",
        {
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 64,
                "finetuned": True,
            },
        },
    ),
    "torch_dtype": ("llama", {"torch_dtype": "float32", "pretraining_tp": 1}),
    "llama without head_dim": ("llama", {"head_dim": None}),
}


@pytest.mark.matrix
@pytest.mark.parametrize("name", LEGACY)
def test_old_configurations_mean_what_they_meant(tmp_path: Path, name: str) -> None:
    family, keys = LEGACY[name]
    directory = save_teacher(tmp_path / "teacher", family)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for new in ("rope_parameters", "layer_types", "dtype"):
        config.pop(new, None)
    if keys.get("head_dim", 0) is None:
        config.pop("head_dim")
    config |= keys
    path.write_text(json.dumps(config))

    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    _same_logits(load_model(directory), theirs)
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(directory))
    back = export(convert(directory, plan, tmp_path / "hybrid"), tmp_path / "back")
    assert json.loads((back / "config.json").read_text()) == config


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "partial rotary": ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    "partial rotary inside": (
        "llama",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        "rope_parameters.partial_rotary_factor is 0.25",
    ),
    "rope per layer type": (
        "qwen3",
        {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
        "differs by layer type (full_attention)",
    ),
    "quantised": ("qwen2", {"quantization_config": {"bits": 4}}, "quantization_config is set"),
    "tensor parallel": ("llama", {"pretraining_tp": 2}, "pretraining_tp is 2"),
    "bidirectional": ("llama", {"is_causal": False}, "is_causal is False"),
    "soft capping": ("mistral", {"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0"),
    "layers that differ": ("llama", {"per_layer_config": {"0": {}}}, "per_layer_config is set"),
    "activation": ("llama", {"hidden_act": "swilu"}, "unknown hidden_act 'swilu'"),
    "linear layers": (
        "qwen3",
        {"layer_types": ["full_attention", "linear_attention", "full_attention"]},
        "linear_attention",
    ),
    "window off but named": (
        "qwen2",
        {"use_sliding_window": False, "layer_types": ["sliding_attention"] * 3},
        "no window is set",
    ),
    "alternating mistral": (
        "mistral",
        {"sliding_window": 8, "layer_types": ["sliding_attention", *["full_attention"] * 2]},
        "layer_types",
    ),
    "unknown rope": ("llama", {"rope_scaling": {"type": "linaer"}}, "did you mean 'linear'?"),
    "rope factor": (
        "qwen2",
        {"rope_parameters": YARN | {"factor": "four"}},
        "rope_parameters.factor is 'four', not a positive number",
    ),
    "short list": (
        "llama",
        {"rope_parameters": LONGROPE | {"long_factor": [1.0]}},
        "rope_parameters.long_factor is [1.0], not a list of 4 positive numbers",
    ),
    "odd heads": ("llama", {"head_dim": 7}, "an even"),
    "padding token": ("mistral", {"pad_token_id": 67}, "pad_token_id is 67, not a token"),
    "wrong type": ("llama", {"hidden_size": "32"}, "hidden_size"),
    "kv_heads do not divide": ("llama", {"num_key_value_heads": 3}, "num_key_value_heads"),
    "reward model": (
        "qwen2",
        {"architectures": ["Qwen2ForSequenceClassification"]},
        "architecture 'Qwen2ForSequenceClassification' is not supported",
    ),
    "unknown family": ("llama", {"model_type": "lama"}, "did you mean 'llama'?"),
    "no family": ("llama", {"model_type": None}, "known: qwen3, qwen2, llama, mistral"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name(tmp_path: Path, name: str) -> None:
    family, changes, told = REFUSED[name]
    directory = save_teacher(tmp_path / "teacher", family)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(HydraHeadError) as caught:
        load_model(directory)
    assert told in str(caught.value)
    assert str(directory) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("stored", ["lm_head.weight", "model.embed_tokens.weight"])
def test_tied_embeddings_under_either_name(tmp_path: Path, stored: str) -> None:
    directory = save_teacher(tmp_path / "teacher", "qwen2", "tied")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors[stored] = tensors.pop("model.embed_tokens.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    _same_logits(load_model(directory), AutoModelForCausalLM.from_pretrained(directory).eval())


@pytest.mark.parametrize("equal", [True, False])
def test_tied_embeddings_stored_twice(tmp_path: Path, equal: bool) -> None:
    """As in transformers: equal copies are tied, different ones are not."""
    directory = save_teacher(tmp_path / "teacher", "qwen2", "tied")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = embedding.clone() if equal else embedding.flip(0).clone()
    save_file(tensors, file, metadata={"format": "pt"})
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
    mine = load_model(directory)
    _same_logits(mine, theirs)
    assert (mine.lm_head.weight is mine.model.embed_tokens.weight) is equal

    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(directory))
    hybrid = convert(directory, plan, tmp_path / "hybrid")
    _same_logits(load_model(hybrid), theirs)
    back = AutoModelForCausalLM.from_pretrained(export(hybrid, tmp_path / "back")).eval()
    _same_logits(back, theirs)


def test_old_rotary_buffers_are_ignored(tmp_path: Path) -> None:
    directory = save_teacher(tmp_path / "teacher", "llama")
    file = directory / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(tensors, file, metadata={"format": "pt"})
    _same_logits(load_model(directory), AutoModelForCausalLM.from_pretrained(directory).eval())


def test_every_family_is_in_the_table_under_its_model_type() -> None:
    for name in FAMILIES:
        family = FAMILIES.load(name)
        assert family.name == name
        assert family_of({"model_type": name}) is family


def test_a_changed_field_goes_back_into_the_teachers_configuration() -> None:
    config = tiny_config("qwen2", "late_windows")
    family = FAMILIES.load("qwen2")
    original = json.loads(config.to_json_string())
    hydra = HydraConfig(**family.to_hydra(original))
    assert family.to_teacher(hydra) == original
    hydra.max_position_embeddings = 512
    hydra.rope_parameters = {**hydra.rope_parameters, "rope_theta": 123.0}
    back = family.to_teacher(hydra)
    assert AutoConfig.for_model(**back).rope_parameters["rope_theta"] == 123.0
    assert {key for key in back if back[key] != original.get(key)} == {
        "max_position_embeddings",
        "rope_parameters",
    }


def test_every_option_changes_the_arithmetic() -> None:
    """A case that changed nothing would test nothing."""
    ids, _, _ = padded_batch(SIZES["vocab_size"], tokens=40)
    plain = tiny_model(tiny_config("qwen3"))(ids).logits
    for option in COMMON:
        if option not in ("plain", "tied"):
            other = tiny_model(tiny_config("qwen3", option))(ids).logits
            assert not torch.allclose(plain, other, atol=1e-4), option
