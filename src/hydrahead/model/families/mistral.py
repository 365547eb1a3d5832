"""Mistral: no biases; one sliding window for all layers, or none."""

from hydrahead.model.families.base import Family

FAMILY = Family(name="mistral", architecture="MistralForCausalLM")
