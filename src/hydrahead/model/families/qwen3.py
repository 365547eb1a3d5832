"""Qwen3: q and k are normalised per head; biases, if any, on q, k, v and the output."""

from hydrahead.model.families.base import Family, by_field

FAMILY = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    qk_norm=True,
    attention_bias=by_field("attention_bias"),
    attention_output_bias=by_field("attention_bias"),
)
