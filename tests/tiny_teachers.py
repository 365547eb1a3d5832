"""Small random checkpoints of every family, made and saved by transformers itself.

`CASES` holds one entry per option of a family's config.json that changes the arithmetic.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

SIZES: Mapping[str, Any] = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LINEAR = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.0, 2.0, 3.0, 4.0],
    "original_max_position_embeddings": 64,
}
MIXED_LAYERS = ["sliding_attention", "full_attention", "sliding_attention"]
WIDE = {"head_dim": 16}
NO_GROUPS = {"num_key_value_heads": 4}
ONE_GROUP = {"num_key_value_heads": 1}

COMMON: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "tied": {"tie_word_embeddings": True},
    "wide_heads": WIDE,
    "no_groups": NO_GROUPS,
    "one_group": ONE_GROUP,
    "yarn": {"rope_parameters": YARN},
    "yarn_mscale": {
        "rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 0.8, "beta_fast": 16.0}
    },
    "llama3": {"rope_parameters": LLAMA3},
    "linear": {"rope_parameters": LINEAR},
    "dynamic": {"rope_parameters": DYNAMIC, "max_position_embeddings": 24},
    "longrope": {"rope_parameters": LONGROPE},
    "gelu": {"hidden_act": "gelu_pytorch_tanh"},
    "eps": {"rms_norm_eps": 1e-2},
}
QWEN: Mapping[str, Mapping[str, Any]] = {
    "late_windows": {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "window_unused": {"use_sliding_window": False, "sliding_window": 7, "max_window_layers": 1},
    "layer_types": {"use_sliding_window": True, "sliding_window": 7, "layer_types": MIXED_LAYERS},
}
MAMBA: Mapping[str, Any] = {
    "mamba_d_ssm": 24,
    "mamba_n_heads": 4,
    "mamba_d_head": 6,
    "mamba_d_state": 5,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
    "mamba_norm_before_gate": False,
    "embedding_multiplier": 1.7,
    "lm_head_multiplier": 0.6,
    "key_multiplier": 0.4,
    "attention_in_multiplier": 0.8,
    "attention_out_multiplier": 0.9,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.7,
    "mlp_multipliers": [0.9, 0.6],
    "ssm_multipliers": [0.85, 0.75, 1.4, 1.2, 0.7],
}
"""Every multiplier differs from 1, and from the others."""
FALCON_H1: Mapping[str, Mapping[str, Any]] = {
    "without_multipliers": {
        **{name: 1.0 for name in MAMBA if name.endswith("multiplier")},
        "mlp_multipliers": None,
        "ssm_multipliers": None,
    },
    "norm": {"mamba_rms_norm": True},
    "norm_before_gate": {"mamba_rms_norm": True, "mamba_norm_before_gate": True},
    "two_groups": {"mamba_n_groups": 2},
    "two_groups_norm": {"mamba_n_groups": 2, "mamba_rms_norm": True},
    "expanded": {"mamba_d_ssm": None, "mamba_expand": 1, "mamba_d_head": "auto"},
    "no_conv_bias": {"mamba_conv_bias": False},
    "output_bias": {"projectors_bias": True},
    "bias": {"attention_bias": True, "mlp_bias": True},
    "step_limits": {"time_step_limit": (0.2, 0.7)},
}
OWN: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "qwen3": {**QWEN, "bias": {"attention_bias": True}},
    "qwen2": QWEN,
    "llama": {
        "bias": {"attention_bias": True},
        "mlp_bias": {"mlp_bias": True},
        "every_bias_tied": {
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    },
    "mistral": {
        "window": {"sliding_window": 7},
        "window_one_group": {"sliding_window": 5, **ONE_GROUP},
    },
    "falcon_h1": FALCON_H1,
}
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "mistral": {"sliding_window": None},
    "falcon_h1": MAMBA,
}
LEFT_OUT = {("falcon_h1", "gelu")}
"""Options of `COMMON` that a family does not have."""

CASES: tuple[tuple[str, str], ...] = tuple(
    (family, option)
    for family in OWN
    for option in (*COMMON, *OWN[family])
    if (family, option) not in LEFT_OUT
)


def tiny_config(family: str, option: str = "plain", **changes: Any) -> Any:
    """A transformers configuration of `family` with one option of `CASES`."""
    chosen = OWN[family].get(option) or COMMON.get(option) or {}
    settings = {**SIZES, **DEFAULTS.get(family, {}), **chosen, **changes}
    return CONFIG_MAPPING[family](**settings)


def tiny_model(config: Any, *, seed: int = 0, attn_implementation: str = "sdpa") -> PreTrainedModel:
    """A random fp32 model of `config`; norms and biases are random too."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attn_implementation)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            elif name.endswith(("bias", "A_log", ".D")):
                parameter.copy_(0.3 * torch.randn_like(parameter))
    return model.eval()


def save_teacher(directory: Path, family: str, option: str = "plain", **changes: Any) -> Path:
    """A checkpoint directory with a tokenizer; returns it."""
    model = tiny_model(tiny_config(family, option, **changes))
    model.save_pretrained(directory)
    save_tokenizer(directory)
    return directory


def save_tokenizer(directory: Path) -> None:
    """A word-level tokenizer of 67 tokens with a chat template."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(64))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    fast.save_pretrained(directory)


def padded_batch(
    vocab_size: int, *, rows: int = 3, tokens: int = 29, seed: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, mask and positions of rows with 0, 5, 10 ... tokens of left padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab_size, (rows, tokens), generator=generator)
    mask = torch.ones(rows, tokens, dtype=torch.long)
    for row in range(rows):
        mask[row, : 5 * row] = 0
    return ids, mask, (mask.cumsum(-1) - 1).clamp(min=0)
