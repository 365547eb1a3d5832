"""How each checkpoint family's config.json says its sizes, its own windows and parallel mixers.

Only what a plan needs; weights and forward differences live in model/families. `defaults` are those
of the family's transformers configuration class, which hold where config.json leaves a field out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from hydrahead.core.errors import HydraHeadError, did_you_mean
from hydrahead.plan.falcon_h1 import mamba2_of
from hydrahead.plan.problems import is_integer
from hydrahead.plan.specs.base import MixerSpec

Windows = tuple[int | None, ...]
"""Per layer the number of newest keys a query sees, None where it sees all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyRules:
    """One family's defaults, and its rules for the windows and parallel mixers of its layers."""

    defaults: Mapping[str, Any]
    windows: Callable[[Mapping[str, Any], int], Windows]
    parallel: Callable[[Mapping[str, Any]], tuple[MixerSpec, ...]] = lambda config: ()
    """Mixers that every layer of the checkpoint has beside its attention."""


def _no_windows(config: Mapping[str, Any], num_layers: int) -> Windows:
    """Llama: every layer is full, whatever else the file says."""
    return _without_other_layer_types(config, (None,) * num_layers)


def _always_full(config: Mapping[str, Any], num_layers: int) -> Windows:
    """Falcon-H1: every layer attends to everything (its `layer_types` say "hybrid")."""
    return (None,) * num_layers


def _one_window(config: Mapping[str, Any], num_layers: int) -> Windows:
    """Mistral: one window for all layers, or none."""
    return _without_other_layer_types(config, (_window(config),) * num_layers)


def _late_windows(config: Mapping[str, Any], num_layers: int) -> Windows:
    """Qwen: as `layer_types` says, else from `max_window_layers` on, if windows are in use."""
    window = _window(config) if config["use_sliding_window"] else None
    layer_types = _layer_types(config, num_layers)
    if layer_types is None:
        first = config["max_window_layers"]
        if not is_integer(first):
            raise HydraHeadError(f"max_window_layers is {first!r}", mend="use an integer")
        return tuple(window if layer >= first else None for layer in range(num_layers))
    if window is None and "sliding_attention" in layer_types:
        raise HydraHeadError(
            "layer_types names sliding_attention layers, but no window is set",
            mend="set use_sliding_window and sliding_window, or mend layer_types",
        )
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


def _window(config: Mapping[str, Any]) -> int | None:
    window = config["sliding_window"]
    if window is not None and not (is_integer(window) and window >= 1):
        raise HydraHeadError(f"sliding_window is {window!r}", mend="use a positive integer or null")
    return window


def _without_other_layer_types(config: Mapping[str, Any], windows: Windows) -> Windows:
    """These families' classes ignore `layer_types`; refuse a file in which it would matter."""
    layer_types = _layer_types(config, len(windows))
    if layer_types is None:
        return windows
    wanted = ["full_attention" if window is None else "sliding_attention" for window in windows]
    if layer_types != wanted:
        layer = next(i for i, (a, b) in enumerate(zip(layer_types, wanted, strict=True)) if a != b)
        raise HydraHeadError(
            f"layer_types calls layer {layer} {layer_types[layer]!r}, but a {config['model_type']} "
            f"model runs it as {wanted[layer]!r}",
            mend="remove layer_types, or give the model_type of the family that reads it",
        )
    return windows


def _layer_types(config: Mapping[str, Any], num_layers: int) -> list[str] | None:
    listed = config.get("layer_types")
    if listed is None:
        return None
    kinds = (
        [str(kind) for kind in cast(Sequence[Any], listed)]
        if isinstance(listed, list | tuple)
        else []
    )
    if len(kinds) != num_layers:
        raise HydraHeadError(f"layer_types must list one kind for each of the {num_layers} layers")
    known = ("full_attention", "sliding_attention")
    for kind in kinds:
        if kind not in known:
            raise HydraHeadError(
                f"layer type {kind!r} is not known here",
                mend=did_you_mean(kind, known) or f"known: {', '.join(known)}",
            )
    return kinds


_QWEN: Mapping[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 4096,
    "intermediate_size": 22016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": None,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
}
_LLAMA: Mapping[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
_MISTRAL: Mapping[str, Any] = {
    **_LLAMA,
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 4096 * 32,
    "sliding_window": 4096,
}
_FALCON_H1: Mapping[str, Any] = {
    "vocab_size": 128000,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": None,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}

FAMILY_RULES: Mapping[str, FamilyRules] = {
    "qwen3": FamilyRules(defaults={**_QWEN, "head_dim": 128}, windows=_late_windows),
    "qwen2": FamilyRules(defaults=_QWEN, windows=_late_windows),
    "llama": FamilyRules(defaults=_LLAMA, windows=_no_windows),
    "mistral": FamilyRules(defaults=_MISTRAL, windows=_one_window),
    "falcon_h1": FamilyRules(defaults=_FALCON_H1, windows=_always_full, parallel=mamba2_of),
}
"""model_type of config.json -> the family's rules."""
