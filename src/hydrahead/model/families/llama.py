"""Llama 1 to 3.3: biases, if any, on q, k, v and the output; others on the three MLP maps."""

from hydrahead.model.families.base import Family, by_field

FAMILY = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    attention_bias=by_field("attention_bias"),
    attention_output_bias=by_field("attention_bias"),
    mlp_bias=by_field("mlp_bias"),
)
