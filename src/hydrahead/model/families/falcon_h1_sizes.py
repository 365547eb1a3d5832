"""The published sizes of Falcon-H1 as config.json files, to build a model of the shape of one.

Layers, widths, heads and states are those of the model card table (transformers' documentation of
FalconH1). What that table lacks is marked below: `intermediate_size` and `vocab_size` of 1.5B-Deep,
3B and 34B were solved from the published number of parameters, and reproduce it. Multipliers are
known for 0.5B and Tiny-90M alone; the other sizes have neutral ones here, so they give the shape,
the cost and the speed of a published model, not its training dynamics.

A published checkpoint brings its own config.json; nothing here is needed to load one.
"""

from collections.abc import Mapping
from typing import Any

from hydrahead.core.errors import unknown_name

_COMMON: Mapping[str, Any] = {
    "model_type": "falcon_h1",
    "architectures": ["FalconH1ForCausalLM"],
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e11},
    "tie_word_embeddings": False,
    "mamba_n_groups": 1,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 256,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_norm_before_gate": False,
    "mamba_rms_norm": False,
    "projectors_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 11,
}
_MULTIPLIERS_05B: Mapping[str, Any] = {
    "embedding_multiplier": 5.656854249492381,
    "lm_head_multiplier": 0.0390625,
    "key_multiplier": 0.390625,
    "attention_in_multiplier": 1.0,
    "attention_out_multiplier": 0.9375,
    "ssm_in_multiplier": 1.25,
    "ssm_out_multiplier": 0.23570226039551587,
    "mlp_multipliers": [0.8838834764831844, 0.5859375],
    "ssm_multipliers": [0.3535533905932738, 0.25, 0.3535533905932738, 0.5, 0.3535533905932738],
}


def _shape(
    layers: int,
    hidden: int,
    heads: tuple[int, int, int],
    mamba: tuple[int, int, int],
    mlp: int,
    vocab: int,
    context: int,
    **more: Any,
) -> dict[str, Any]:
    """`heads`: q_heads, kv_heads, head_dim; `mamba`: heads, head_dim, state."""
    return {
        **_COMMON,
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "head_dim": heads[2],
        "mamba_n_heads": mamba[0],
        "mamba_d_head": mamba[1],
        "mamba_d_ssm": mamba[0] * mamba[1],
        "mamba_d_state": mamba[2],
        "intermediate_size": mlp,
        "vocab_size": vocab,
        "max_position_embeddings": context,
        **more,
    }


_K = 1024
SIZES: Mapping[str, dict[str, Any]] = {
    "tiny-90m": _shape(
        24, 512, (8, 2, 64), (24, 32, 64), 768, 32768, 256 * _K,
        tie_word_embeddings=True, embedding_multiplier=0.0344, lm_head_multiplier=0.078125,
    ),
    "0.5b": _shape(
        36, 1024, (8, 2, 64), (24, 64, 128), 2048, 32784, 16 * _K,
        mamba_chunk_size=128, **_MULTIPLIERS_05B,
    ),
    "1.5b": _shape(24, 2048, (8, 2, 128), (48, 64, 256), 4608, 65537, 128 * _K),
    # MLP and vocabulary solved from 1.55B, 3.15B and 33.6B parameters.
    "1.5b-deep": _shape(66, 1280, (6, 2, 128), (24, 64, 256), 3072, 65536, 128 * _K),
    "3b": _shape(32, 2560, (10, 2, 128), (32, 128, 256), 6144, 65536, 128 * _K),
    "7b": _shape(44, 3072, (12, 2, 128), (24, 128, 256), 12288, 130048, 256 * _K),
    "34b": _shape(72, 5120, (20, 4, 128), (32, 128, 256), 21504, 261120, 256 * _K),
}  # fmt: skip
"""Name -> config.json."""
PUBLISHED_PARAMETERS: Mapping[str, float] = {
    "tiny-90m": 0.09e9,
    "0.5b": 0.52e9,
    "1.5b": 1.55e9,
    "1.5b-deep": 1.55e9,
    "3b": 3.15e9,
    "7b": 7.59e9,
    "34b": 33.6e9,
}
"""As TII gives them."""


def falcon_h1_config(size: str) -> dict[str, Any]:
    """config.json of a published size; an unknown name raises HydraHeadError."""
    if size not in SIZES:
        raise unknown_name("Falcon-H1 size", size, SIZES)
    return {**SIZES[size]}
