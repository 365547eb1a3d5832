"""Options of a config.json that would change the arithmetic and that no family here implements.

They are refused by name. Ignoring one would give a model that runs and is wrong.
"""

from collections.abc import Mapping
from typing import Any

from hydrahead.core.errors import HydraHeadError

_UNSUPPORTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "quantization_config": ((), "use the unquantised checkpoint"),
    "partial_rotary_factor": ((1,), "only rotation of the whole head is implemented"),
    "pretraining_tp": (
        (0, 1),
        "set it to 1: it splits the matrix products and changes only their rounding",
    ),
    "per_layer_config": (({},), "layers must all have the same sizes"),
    "is_causal": ((True,), "only causal language models are supported"),
    "is_encoder_decoder": ((False,), "only decoder-only models are supported"),
    "add_cross_attention": ((False,), "only decoder-only models are supported"),
    "attn_logit_softcapping": ((), "logit capping is not implemented"),
    "final_logit_softcapping": ((), "logit capping is not implemented"),
    "attention_chunk_size": ((), "chunked attention is not implemented"),
    "no_rope_layers": (([],), "layers without rotation belong into a plan: FullSpec(rope=False)"),
    "clip_qkv": ((), "clipping of q, k and v is not implemented"),
    "num_experts": ((0,), "mixtures of experts are not supported"),
    "num_local_experts": ((0,), "mixtures of experts are not supported"),
}
"""Key -> values (besides null) that change nothing, and the mend."""

_ROPE_KEYS = ("rope_parameters", "rope_scaling")


def refuse_unsupported(config: Mapping[str, Any], *, where: Any) -> None:
    """Raise HydraHeadError for the first option in `config` that is not supported."""
    _refuse(config, "", where)
    for key in _ROPE_KEYS:
        rope = config.get(key)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            raise HydraHeadError(
                f"{key} is {rope!r}, not an object", where=where, mend="mend config.json"
            )
        _refuse(rope, f"{key}.", where)
        nested = [name for name, value in rope.items() if isinstance(value, Mapping)]
        if nested:
            raise HydraHeadError(
                f"{key} differs by layer type ({', '.join(nested)})",
                where=where,
                mend="one rotation for all layers is supported",
            )


def _refuse(config: Mapping[str, Any], prefix: str, where: Any) -> None:
    for key, (neutral, mend) in _UNSUPPORTED.items():
        value = config.get(key)
        if value is not None and value not in neutral:
            shown = repr(value) if isinstance(value, int | float | str) else "set"
            raise HydraHeadError(f"{prefix}{key} is {shown}: not supported", where=where, mend=mend)
