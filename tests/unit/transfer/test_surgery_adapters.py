"""LoRA adapters: dropping what they did to queries and keys equals merging all the rest."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from hydrahead import restore_qk
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from surgery_cases import fine_tuned, save_adapter, save_foreign, tensors_of
from tiny_teachers import save_teacher

LAYER = "model.layers.{}.self_attn.{}_proj"
MODULES = [LAYER.format(layer, role) for layer in (0, 1, 2) for role in "qkv"]
MODULES += ["model.layers.1.mlp.up_proj"]


def adapted_model(base: Path, adapter: Path) -> Any:
    """The base with an adapter run beside every layer, as peft does, from its files alone."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = read_json(adapter / "adapter_config.json")
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, a in tensors.items():
        if not name.endswith(".lora_A.weight"):
            continue
        b = tensors[name.replace("lora_A", "lora_B")]
        path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        scale = config["lora_alpha"] / config["r"]

        def add(_m: Any, inputs: Any, output: Any, a: Any = a, b: Any = b, s: Any = scale) -> Any:
            return output + s * (inputs[0] @ a.T) @ b.T

        model.get_submodule(path).register_forward_hook(add)
    return model


@pytest.mark.parametrize("family", ["qwen3", "qwen3_next", "phi3"])
@torch.no_grad()
def test_dropped_equals_merged(tmp_path: Path, family: str) -> None:
    base = tmp_path / "base"
    if family == "qwen3":
        save_teacher(base, family)
        modules = MODULES
    else:
        save_foreign(base, family)
        fused = "qkv_proj" if family == "phi3" else "q_proj"
        modules = [f"model.layers.{1 if family == 'phi3' else 3}.self_attn.{fused}"]
    adapter = save_adapter(tmp_path / "adapter", base, modules)
    dropped = restore_qk(base, adapter, tmp_path / "dropped")
    merged = restore_qk(base, adapter, tmp_path / "merged", merge=True)
    ids = torch.arange(24)[None] % 60
    one = adapted_model(base, dropped)(ids).logits
    other = AutoModelForCausalLM.from_pretrained(merged)(ids).logits
    whole = adapted_model(base, adapter)(ids).logits
    assert torch.allclose(one, other, rtol=0, atol=1e-4 * float(whole.abs().max()))
    assert not torch.allclose(one, whole, rtol=0, atol=1e-2 * float(whole.abs().max()))


def test_merged_values(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, MODULES)
    merged = tensors_of(restore_qk(base, adapter, tmp_path / "merged", merge=True, layers="1"))
    before, low = tensors_of(base), load_file(adapter / "adapter_model.safetensors")
    for name, value in before.items():
        module = name.removesuffix(".weight")
        expected = value
        back = {LAYER.format(1, role) for role in "qk"}
        if module in MODULES and module not in back:
            a, b = (low[f"base_model.model.{module}.lora_{x}.weight"].double() for x in "AB")
            expected = (value.double() + 3 / 2 * (b @ a)).to(value.dtype)
        assert torch.equal(merged[name], expected), name


def test_a_merged_adapter_restores_as_its_merged_checkpoint_does(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, MODULES)
    # alpha 0 takes nothing back: the adapter merged as it is.
    post = restore_qk(base, adapter, tmp_path / "post", merge=True, alpha=0.0)
    for settings in ({}, {"alpha": 0.5}, {"variant": "pro", "lambda_": 0.3}):
        name = "-".join(map(str, settings.values()))
        one = restore_qk(base, adapter, tmp_path / f"one{name}", merge=True, **settings)
        other = restore_qk(base, post, tmp_path / f"other{name}", **settings)
        for key, value in tensors_of(one).items():
            assert torch.allclose(value, tensors_of(other)[key], rtol=0, atol=1e-5), key


def test_what_is_left_of_an_adapter(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, MODULES)
    out = restore_qk(base, adapter, tmp_path / "out", variant="q", layers="0,1")
    left = read_json(out / "adapter_config.json")["target_modules"]
    gone = {LAYER.format(layer, "q") for layer in (0, 1)}
    assert left == sorted(set(MODULES) - gone)
    names = load_file(out / "adapter_model.safetensors").keys()
    assert len(names) == 2 * len(left)
    assert not (out / "config.json").exists()


def test_alpha_shrinks_an_adapter(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, MODULES)
    out = restore_qk(base, adapter, tmp_path / "out", alpha=0.75)
    name = f"base_model.model.{LAYER.format(2, 'k')}.lora_B.weight"
    before, after = (load_file(d / "adapter_model.safetensors")[name] for d in (adapter, out))
    assert torch.allclose(after, before / 4)


def test_scales(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    module = "model.layers.1.mlp.up_proj"
    for number, (settings, scale) in enumerate(
        (
            ({"lora_alpha": 8}, 4.0),
            ({"lora_alpha": 8, "use_rslora": True}, 8 / 2**0.5),
            ({"alpha_pattern": {"mlp.up_proj": 1}}, 0.5),
        )
    ):
        adapter = save_adapter(tmp_path / f"a{number}", base, [module], **settings)
        out = restore_qk(base, adapter, tmp_path / f"o{number}", merge=True)
        low = load_file(adapter / "adapter_model.safetensors")
        a, b = (low[f"base_model.model.{module}.lora_{x}.weight"] for x in "AB")
        change = tensors_of(out)[f"{module}.weight"] - tensors_of(base)[f"{module}.weight"]
        assert torch.allclose(change, scale * b @ a, rtol=1e-4, atol=1e-4)


def test_modules_saved_whole_are_merged(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, MODULES[:3])
    path = adapter / "adapter_model.safetensors"
    head = torch.ones(67, 32)
    save_file({**load_file(path), "base_model.model.lm_head.weight": head}, path)
    merged = tensors_of(restore_qk(base, adapter, tmp_path / "merged", merge=True))
    assert torch.equal(merged["lm_head.weight"], head)
    dropped = restore_qk(base, adapter, tmp_path / "dropped")
    kept = load_file(dropped / "adapter_model.safetensors")
    assert torch.equal(kept["base_model.model.lm_head.weight"], head)


def edit(adapter: Path, **changes: Any) -> None:
    path = adapter / "adapter_config.json"
    write_json(path, {**read_json(path), **changes})


def spoil(adapter: Path, change: Any) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


EMBEDDED = "base_model.model.a.lora_embedding_A"
FIRST = f"base_model.model.{MODULES[0]}.lora_A.weight"


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda d: edit(d, peft_type="IA3"), "only LORA is supported"),
        (lambda d: edit(d, use_dora=True), "DoRA"),
        (lambda d: edit(d, bias="all"), "trained biases"),
        (lambda d: spoil(d, lambda t: {**t, "x": torch.ones(1)}), "does not start with"),
        (lambda d: spoil(d, lambda t: {n: v for n, v in t.items() if n != FIRST}), "no lora_A"),
        (
            lambda d: spoil(d, lambda t: {**t, FIRST: torch.ones(2, 33)}),
            r"changes 'model.layers.0.self_attn.q_proj' by a \[32, 33\] matrix",
        ),
        (
            lambda d: spoil(
                d, lambda t: {n.replace("layers.2", "layers.9"): v for n, v in t.items()}
            ),
            "which PRE does not have",
        ),
        (
            lambda d: spoil(
                d, lambda t: {**t, "base_model.model.a.lora_embedding_A": t[FIRST] + 1}
            ),
            "no part of a plain LoRA",
        ),
    ],
)
def test_adapters_that_are_refused(tmp_path: Path, mistake: Any, message: str) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, MODULES)
    mistake(adapter)
    with pytest.raises(HydraHeadError, match=message):
        restore_qk(base, adapter, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_requests_that_do_not_fit(tmp_path: Path) -> None:
    base = save_teacher(tmp_path / "base", "qwen3")
    adapter = save_adapter(tmp_path / "adapter", base, [LAYER.format(0, "q")])
    with pytest.raises(HydraHeadError, match="nothing of the adapter is left"):
        restore_qk(base, adapter, tmp_path / "out")
    with pytest.raises(HydraHeadError, match="use --merge"):
        restore_qk(base, adapter, tmp_path / "out", variant="pro")
    post = fine_tuned(base, tmp_path / "post")
    with pytest.raises(HydraHeadError, match="not an adapter"):
        restore_qk(base, post, tmp_path / "out", merge=True)
    assert json.loads((adapter / "adapter_config.json").read_text())["r"] == 2
