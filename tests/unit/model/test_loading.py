"""Loading: dtype, device and attention as asked, tokenizers, foreign models, names on the hub."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import (
    load_any_causal_lm,
    load_model,
    load_tokenizer,
    resolve_model_dir,
)
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.transfer.convert import convert
from tiny_teachers import padded_batch, save_teacher, save_tokenizer, tiny_config, tiny_model

GATED = FullSpec(output_gate=True)


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher", "qwen3")


@pytest.fixture
def hybrid(teacher: Path, tmp_path: Path) -> Path:
    geometry = ModelGeometry.from_pretrained(teacher)
    plan = HeadPlan.uniform(geometry, GatedDeltaSpec()).replace({(0, 0): GATED})
    return convert(teacher, plan, tmp_path / "hybrid")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", torch.bfloat16])
def test_dtype_is_honoured_and_gates_stay_wide(hybrid: Path, dtype: str | torch.dtype) -> None:
    wanted = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    model = load_model(hybrid, dtype=dtype)
    kept = ("gates", "output_gate", "fusion")
    for name, parameter in model.named_parameters():
        wide = any(part in kept for part in name.split("."))
        assert parameter.dtype == (torch.float32 if wide else wanted), name
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.config.dtype == wanted
    assert not model.training


def test_auto_is_the_stored_dtype(tmp_path: Path) -> None:
    directory = tmp_path / "teacher"
    tiny_model(tiny_config("llama")).to(torch.bfloat16).save_pretrained(directory)
    assert load_model(directory, dtype="auto").dtype == torch.bfloat16
    assert load_model(directory).dtype == torch.float32


def test_generation_settings_come_along(teacher: Path) -> None:
    path = teacher / "generation_config.json"
    path.write_text(json.dumps({"eos_token_id": [2, 5], "top_k": 7, "do_sample": True}))
    model = load_model(teacher)
    assert model.generation_config.eos_token_id == [2, 5]
    assert model.generation_config.top_k == 7
    path.write_text("{")
    with pytest.raises(HydraHeadError, match=r"generation_config\.json: damaged"):
        load_model(teacher)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dtype": "float8"}, "unknown dtype 'float8'"),
        ({"device": "cudda"}, "device cudda cannot be used"),
        ({"device": "cuda"}, "device cuda cannot be used"),
        ({"attn_implementation": "spda"}, "did you mean 'sdpa'?"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attention_2"),
    ],
)
def test_what_cannot_be_had_is_refused(teacher: Path, settings: dict[str, str], told: str) -> None:
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(HydraHeadError) as caught:
        load_model(teacher, **settings)
    assert told in str(caught.value)


def test_a_hybrid_that_lost_a_tensor_is_refused(hybrid: Path) -> None:
    file = hybrid / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.fusion.gamma"
    del tensors[name]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(HydraHeadError, match=f"missing tensor {name}"):
        load_model(hybrid)


def test_a_hybrid_with_nan_is_refused(hybrid: Path) -> None:
    file = hybrid / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.1.mlp.up_proj.weight"][3, 3] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(HydraHeadError, match=r"layers\.1\.mlp\.up_proj\.weight' holds 1 NaN"):
        load_model(hybrid)


def test_tokenizers_of_teacher_and_hybrid_are_the_same(teacher: Path, hybrid: Path) -> None:
    text = "w1 w2 w60 w0"
    assert load_tokenizer(teacher)(text).input_ids == load_tokenizer(hybrid)(text).input_ids
    assert load_tokenizer(hybrid).chat_template == load_tokenizer(teacher).chat_template


def test_a_missing_tokenizer_is_one_line(teacher: Path) -> None:
    for path in teacher.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(HydraHeadError, match="no tokenizer") as caught:
        load_tokenizer(teacher)
    assert "\n" not in str(caught.value)


def test_any_other_causal_model_is_loaded_as_it_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=67, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    save_tokenizer(tmp_path / "gpt2")
    model = load_any_causal_lm(tmp_path / "gpt2")
    ids, _, _ = padded_batch(67)
    assert model(ids).logits.shape == (*ids.shape, 67)
    with pytest.raises(HydraHeadError, match="unknown architecture: model_type 'gpt2'"):
        load_model(tmp_path / "gpt2")


def test_a_foreign_model_without_sdpa_runs_on_what_it_has(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"vocab_size": 67, "hidden_size": 16, "intermediate_size": 16}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
    Gemma2ForCausalLM(Gemma2Config(**sizes, **heads, num_hidden_layers=1)).save_pretrained(tmp_path)
    model = load_any_causal_lm(tmp_path)
    assert model.config._attn_implementation == "eager"
    with pytest.raises(HydraHeadError, match="transformers cannot load it"):
        load_any_causal_lm(tmp_path, attn_implementation="sdpa")


def test_our_own_families_are_loaded_as_hybrids(teacher: Path, hybrid: Path) -> None:
    for directory in (teacher, hybrid):
        assert load_any_causal_lm(directory).config.model_type == "hydrahead"


def test_a_foreign_model_that_lost_a_tensor_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=67, n_embd=16, n_layer=1, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    file = tmp_path / "gpt2" / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("transformer.h.0.mlp.c_fc.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(HydraHeadError, match=r"missing keys.*c_fc\.weight"):
        load_any_causal_lm(tmp_path / "gpt2")


def test_code_of_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    config = {
        "model_type": "evil",
        "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.EvilModel"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("open('ran', 'w')\n")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HydraHeadError, match="cannot load"):
        load_any_causal_lm(tmp_path)
    with pytest.raises(HydraHeadError, match="unknown architecture"):
        load_model(tmp_path)
    assert not Path("ran").exists()


def test_a_hub_name_fetches_weights_and_tokenizer_but_no_code(
    teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def fetch(name: str, **settings: object) -> str:
        asked.update(settings, name=name)
        return str(teacher)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert resolve_model_dir("someone/model") == teacher
    assert asked["name"] == "someone/model"
    assert not any("py" in pattern or "bin" in pattern for pattern in asked["allow_patterns"])
    assert load_model("someone/model").config.family == "qwen3"


@pytest.mark.parametrize(
    "name", ["someone/does-not-exist", "nowhere/at/all", "./nowhere", "/nowhere", ""]
)
def test_a_model_that_is_nowhere_is_one_line(name: str) -> None:
    with pytest.raises(HydraHeadError) as caught:
        resolve_model_dir(name)
    assert "\n" not in str(caught.value)
    assert caught.value.mend


def test_a_file_is_no_model_directory(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"x")
    with pytest.raises(HydraHeadError, match="a file, not a model directory"):
        resolve_model_dir(tmp_path / "model.gguf")


def test_a_config_that_is_no_object_is_refused(teacher: Path) -> None:
    (teacher / "config.json").write_text("[]")
    with pytest.raises(HydraHeadError, match="not a JSON object"):
        load_model(teacher)
    (teacher / "config.json").unlink()
    with pytest.raises(HydraHeadError, match=r"config\.json: no such file"):
        load_model(teacher)
