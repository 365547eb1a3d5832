"""Falcon-H1 (arXiv 2507.22448): attention heads beside Mamba-2 heads, and muP's multipliers.

What the Mamba-2 heads look like is in the plan's geometry (`plan/falcon_h1.py`), since a plan keeps
them; their tensors are those of the first parallel mixer here.
"""

from hydrahead.model.families.base import Family, WeightNames, by_field

MIXER = "self_attn.parallel.0."

FAMILY = Family(
    name="falcon_h1",
    architecture="FalconH1ForCausalLM",
    attention_bias=by_field("attention_bias"),
    attention_output_bias=by_field("attention_bias"),
    mlp_bias=by_field("mlp_bias"),
    own_fields=(
        "embedding_multiplier",
        "lm_head_multiplier",
        "attention_in_multiplier",
        "attention_out_multiplier",
        "key_multiplier",
        "mlp_multipliers",
    ),
    weights=WeightNames(
        renamed=(
            (f"{MIXER}gates.", "mamba."),
            (f"{MIXER}conv.", "mamba.conv1d."),
            (MIXER, "mamba."),
            (".mlp.", ".feed_forward."),
            (".post_attention_layernorm.", ".pre_ff_layernorm."),
            ("model.norm.", "model.final_layernorm."),
        )
    ),
)
