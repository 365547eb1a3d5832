"""Pairs of checkpoints before and after a pretended fine-tuning, of every kind surgery knows."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.transfer.convert import convert
from tiny_teachers import SIZES, save_teacher, save_tokenizer

MAMBA = {
    "mamba_d_ssm": 32,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 16,
}
GATED_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
FOREIGN: dict[str, dict[str, Any]] = {
    "qwen3_next": {**GATED_DELTA, **EXPERTS, "num_hidden_layers": 4},
    "qwen3_5_text": {**GATED_DELTA, "num_hidden_layers": 4},
    "falcon_h1": {**MAMBA, "num_hidden_layers": 2},
    "olmo_hybrid": {"num_hidden_layers": 4, "pad_token_id": 0},
    "phi3": {"num_hidden_layers": 2, "pad_token_id": 0},
}
FULL_LAYERS = {
    "qwen3_next": {3},
    "qwen3_5_text": {3},
    "falcon_h1": {0, 1},
    "olmo_hybrid": {3},
    "phi3": {0, 1},
}


def save_foreign(directory: Path, family: str, **changes: Any) -> Path:
    """A tiny random checkpoint of a family that `load_model` does not know, with a tokenizer."""
    torch.manual_seed(0)
    sizes = {**SIZES, **FOREIGN[family], **changes}
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**sizes))
    model.save_pretrained(directory, max_shard_size="15KB")
    save_tokenizer(directory)
    return directory


def save_hybrid(directory: Path, *, unit: Any = "kv_head", bias: bool = False) -> Path:
    """A qwen3 hybrid: full, window and lightning units in two layers, lightning in the third."""
    teacher = directory.with_name(f"{directory.name}-teacher")
    save_teacher(teacher, "qwen3", **({"attention_bias": True} if bias else {}))
    geometry = ModelGeometry.from_pretrained(teacher)
    plan = HeadPlan.uniform(geometry, LightningSpec(), unit)
    last = plan.units_per_layer - 1
    plan = plan.replace(
        {
            (0, 0): FullSpec(),
            (1, last): FullSpec(),
            (1, 0): WindowSpec(window=5, sinks=1),
        }
    )
    convert(teacher, plan, directory)
    return directory


def fine_tuned(before: Path, after: Path, *, seed: int = 7) -> Path:
    """A copy with every weight changed a little, shard by shard."""
    shutil.copytree(before, after)
    (after / "artifact.json").unlink(missing_ok=True)
    generator = torch.Generator().manual_seed(seed)
    for path in sorted(after.glob("*.safetensors")):
        tensors = {
            name: (value + 0.1 * torch.randn(value.shape, generator=generator)).to(value.dtype)
            for name, value in load_file(path).items()
        }
        save_file(tensors, path, metadata={"format": "pt"})
    return after


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= load_file(path)
    return found


def save_adapter(
    directory: Path, base: Path, modules: list[str], *, rank: int = 2, **config: Any
) -> Path:
    """A random LoRA adapter in peft's files."""
    shapes = {name: tuple(value.shape) for name, value in tensors_of(base).items()}
    generator = torch.Generator().manual_seed(3)
    tensors: dict[str, torch.Tensor] = {}
    for module in modules:
        rows, columns = shapes[f"{module}.weight"]
        name = f"base_model.model.{module}"
        tensors[f"{name}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
        tensors[f"{name}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 3,
        "target_modules": ["q_proj", "k_proj"],
        "bias": "none",
        "base_model_name_or_path": str(base),
        **config,
    }
    (directory / "adapter_config.json").write_text(json.dumps(settings))
    return directory
