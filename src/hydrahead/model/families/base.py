"""What a checkpoint family says of itself: how it differs from the one decoder we have.

A family is a description, never forward code. Its config.json is read through the family's own
transformers configuration class, which knows the defaults and the legacy spellings (`rope_theta`,
`rope_scaling`, `torch_dtype`); what comes out is copied into the canonical fields of `HydraConfig`.
The original file is kept as `teacher_config`, from which `to_teacher` writes the family's
config.json back.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.refusals import refuse_unsupported
from hydrahead.model.families.values import INVALID, invalid

SAME_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "tie_word_embeddings",
    "rope_parameters",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)
"""Fields that mean the same under the same name in every family and here."""

_LEGACY_ROPE_KEYS = ("rope_theta", "rope_scaling")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightNames:
    """Where a layer's q, k and v live, and what else is called otherwise than here."""

    q: str = "model.layers.{layer}.self_attn.q_proj"
    k: str = "model.layers.{layer}.self_attn.k_proj"
    v: str = "model.layers.{layer}.self_attn.v_proj"
    q_norm: str = "model.layers.{layer}.self_attn.q_norm"
    k_norm: str = "model.layers.{layer}.self_attn.k_norm"
    renamed: tuple[tuple[str, str], ...] = ()
    """Parts of the other tensors' dotted names, (here, there); the first that is found counts."""

    def stored(self, name: str) -> str:
        """What the tensor that is called `name` here is called in the checkpoint."""
        for here, there in self.renamed:
            if here in name:
                return name.replace(here, there)
        return name

    def of(self, role: str, layer: int) -> str:
        """The module that plays `role` in a layer."""
        return getattr(self, role).format(layer=layer)


Rule = Callable[[PreTrainedConfig], bool]


def never(config: PreTrainedConfig) -> bool:
    """A setting the family does not have."""
    return False


def always(config: PreTrainedConfig) -> bool:
    """A setting the family cannot do without."""
    return True


def by_field(name: str) -> Rule:
    """A setting that the family's config.json switches."""
    return lambda config: bool(getattr(config, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One checkpoint family."""

    name: str
    """Its model_type in config.json."""
    architecture: str
    """Its causal language model in transformers."""
    attention_bias: Rule = never
    """Biases on q, k and v."""
    attention_output_bias: Rule = never
    """Bias on the attention's output projection."""
    mlp_bias: Rule = never
    qk_norm: bool = False
    """RMSNorm of q and k per head, before the rotation."""
    own_fields: tuple[str, ...] = ()
    """Fields beside `SAME_FIELDS` that mean the same there as here."""
    weights: WeightNames = field(default_factory=WeightNames)

    def normalised(self, config: Mapping[str, Any], *, where: Any) -> PreTrainedConfig:
        """config.json as the family's transformers class understands it.

        Raises:
            HydraHeadError: another architecture, an option that is not supported, or a value that
                transformers refuses.
        """
        architectures = config.get("architectures") or [self.architecture]
        if not isinstance(architectures, list) or self.architecture not in architectures:
            shown = architectures[0] if isinstance(architectures, list) else architectures
            raise HydraHeadError(
                f"architecture {shown!r} is not supported",
                where=where,
                mend=f"of model_type {self.name!r} only {self.architecture!r} is",
            )
        refuse_unsupported(config, where=where)
        try:
            return CONFIG_MAPPING[self.name].from_dict(_with_special_numbers(dict(config)))
        except INVALID as error:
            raise invalid(self.name, error, where) from error

    def to_hydra(self, config: Mapping[str, Any], *, where: Any = None) -> dict[str, Any]:
        """Keyword arguments for `HydraConfig`, all but `plan`; raises as `normalised` does."""
        theirs = self.normalised(config, where=where)
        head_dim = getattr(theirs, "head_dim", None)
        return {
            "family": self.name,
            **{name: getattr(theirs, name) for name in (*SAME_FIELDS, *self.own_fields)},
            "rope_parameters": _rope_parameters(theirs),
            "head_dim": head_dim or theirs.hidden_size // theirs.num_attention_heads,
            "attention_bias": self.attention_bias(theirs),
            "attention_output_bias": self.attention_output_bias(theirs),
            "mlp_bias": self.mlp_bias(theirs),
            "qk_norm": self.qk_norm,
            "dtype": theirs.dtype,
            "teacher_config": copy.deepcopy(dict(config)),
        }

    def to_teacher(self, config: HydraConfig) -> dict[str, Any]:
        """config.json of the family again: the teacher's own, with the fields that changed since.

        Raises:
            HydraHeadError: the configuration does not hold its teacher's.
        """
        if not config.teacher_config:
            raise HydraHeadError(
                "the hybrid's config.json holds no teacher_config",
                where=config.name_or_path or None,
                mend="convert the teacher again",
            )
        result = copy.deepcopy(config.teacher_config)
        before = self.to_hydra(result)
        for name in (*SAME_FIELDS, *self.own_fields):
            if getattr(config, name) != before[name]:
                result[name] = copy.deepcopy(getattr(config, name))
        if "rope_parameters" in result and config.rope_parameters != before["rope_parameters"]:
            for key in _LEGACY_ROPE_KEYS:
                result.pop(key, None)
        return result


def _with_special_numbers(value: Any) -> Any:
    """A copy in which {"__float__": "Infinity"}, as transformers writes it, is the number."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return float(value["__float__"])
        return {key: _with_special_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_special_numbers(item) for item in value]
    return copy.deepcopy(value)


def _rope_parameters(config: PreTrainedConfig) -> dict[str, Any]:
    # What transformers carries along from legacy files: `type` repeats `rope_type`, and a partial
    # factor other than 1 has been refused.
    spare = ("type", "partial_rotary_factor")
    return {key: value for key, value in config.rope_parameters.items() if key not in spare}
