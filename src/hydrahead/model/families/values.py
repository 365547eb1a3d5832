"""Values of a configuration that no model can have, refused before any module is built.

transformers checks types when a configuration is made; ranges, and what stands inside
`rope_parameters`, only show deep in the model, if at all.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.model.configuration import HydraConfig

INVALID = (
    StrictDataclassError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ZeroDivisionError,
)
"""What transformers raises for a configuration that it cannot read."""

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
)
_ROPE_TYPES = ("default", *ROPE_INIT_FUNCTIONS)
_LISTS = ("short_factor", "long_factor")
_NUMBERS = (
    "factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def read_hybrid_config(config: Mapping[str, Any], *, where: Path) -> HydraConfig:
    """A config.json of ours as a `HydraConfig`.

    Raises:
        HydraHeadError: a field of the wrong type, or a value that no model can have.
    """
    try:
        hydra = HydraConfig.from_dict(dict(config))
    except INVALID as error:
        raise invalid("hydrahead", error, where) from error
    return checked(hydra, where=where)


def checked(config: HydraConfig, *, where: Path | None) -> HydraConfig:
    """`config`, if a model can be built from it.

    Raises:
        HydraHeadError: names the field.
    """
    for name in _SIZES:
        if getattr(config, name) < 1:
            raise _wrong(name, getattr(config, name), "a positive integer", where)
    if config.head_dim % 2:  # type: ignore[operator]
        raise _wrong("head_dim", config.head_dim, "an even number, for the rotation", where)
    if not (math.isfinite(config.rms_norm_eps) and config.rms_norm_eps >= 0):
        raise _wrong("rms_norm_eps", config.rms_norm_eps, "a number that is not negative", where)
    if config.pad_token_id is not None and config.pad_token_id >= config.vocab_size:
        raise _wrong("pad_token_id", config.pad_token_id, "a token of the vocabulary", where)
    if config.hidden_act not in ACT2FN:
        raise _unknown("hidden_act", config.hidden_act, tuple(ACT2FN), where)
    _check_rope(config, where)
    return config


def invalid(name: str, error: BaseException, where: Path | None) -> HydraHeadError:
    """The one-line error for a configuration that transformers refuses."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return HydraHeadError(
        f"not a valid {name} configuration ({reason})",
        where=where,
        mend="mend the field, or fetch config.json again",
    )


def _check_rope(config: HydraConfig, where: Path | None) -> None:
    rope = config.rope_parameters or {}
    rope_type = rope.get("rope_type")
    if rope_type not in _ROPE_TYPES:
        raise _unknown("rope_type", str(rope_type), _ROPE_TYPES, where)
    for name, value in rope.items():
        place = f"rope_parameters.{name}"
        if name in _LISTS:
            half = config.head_dim // 2  # type: ignore[operator]
            if not isinstance(value, list) or len(value) != half or not all(map(_positive, value)):
                raise _wrong(place, value, f"a list of {half} positive numbers", where)
        needs_number = name == "rope_theta" or (name in _NUMBERS and value is not None)
        if needs_number and not _positive(value):
            raise _wrong(place, value, "a positive number", where)


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and value > 0


def _wrong(name: str, value: Any, wanted: str, where: Path | None) -> HydraHeadError:
    return HydraHeadError(f"{name} is {value!r}, not {wanted}", where=where, mend=f"mend {name}")


def _unknown(kind: str, name: str, known: tuple[str, ...], where: Path | None) -> HydraHeadError:
    error = unknown_name(kind, name, known)
    return HydraHeadError(error.what, where=where, mend=error.mend)
