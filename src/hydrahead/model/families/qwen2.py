"""Qwen2 and Qwen2.5: q, k and v always have biases, the output never."""

from hydrahead.model.families.base import Family, always

FAMILY = Family(name="qwen2", architecture="Qwen2ForCausalLM", attention_bias=always)
