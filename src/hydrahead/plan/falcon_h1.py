"""The Mamba-2 heads of a Falcon-H1 layer, as its config.json describes them.

Facts: transformers' FalconH1Config (its defaults hold where a key is missing) and FalconH1Mixer.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.problems import is_integer, is_object, validated
from hydrahead.plan.specs.mamba2 import Mamba2Spec

DEFAULTS: Mapping[str, Any] = {
    "hidden_size": 4096,
    "hidden_act": "silu",
    "mamba_d_ssm": 1024,
    "mamba_n_heads": 128,
    "mamba_d_head": "auto",
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
    "mamba_norm_before_gate": True,
    "mamba_rms_norm": False,
    "projectors_bias": False,
    "time_step_limit": (0.0, math.inf),
    "ssm_multipliers": None,
    "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0,
}
_CHUNKS = ("z", "x", "b", "c", "dt")
"""Order of `ssm_multipliers`."""


def mamba2_of(config: Mapping[str, Any]) -> tuple[Mamba2Spec]:
    """The parallel mixer of every layer.

    Raises:
        HydraHeadError: sizes that contradict each other, another activation than SiLU, a value of
            the wrong kind.
    """
    full = {**DEFAULTS, **config}
    if full["hidden_act"] not in ("silu", "swish"):
        raise HydraHeadError(
            f"hidden_act is {full['hidden_act']!r}",
            mend="only SiLU is supported in Mamba-2 heads, which every published Falcon-H1 has",
        )
    heads, width = full["mamba_n_heads"], _width(full)
    if not is_integer(heads) or heads < 1 or width % heads:
        raise HydraHeadError(
            f"mamba_n_heads ({heads!r}) does not divide the Mamba-2 width ({width})",
            mend="mend mamba_n_heads, mamba_d_ssm or mamba_expand",
        )
    if full["mamba_d_head"] not in ("auto", width // heads):
        raise HydraHeadError(
            f"mamba_d_head ({full['mamba_d_head']!r}) x mamba_n_heads ({heads}) is not the "
            f"Mamba-2 width ({width})",
            mend="set mamba_d_head to auto, or mend mamba_d_ssm",
        )
    least, greatest = _step_limits(full["time_step_limit"])
    names = {False: "after_gate", True: "before_gate"}
    norm = names[bool(full["mamba_norm_before_gate"])] if full["mamba_rms_norm"] else "none"
    data: dict[str, Any] = {
        "heads": heads,
        "head_dim": width // heads,
        "state_size": full["mamba_d_state"],
        "groups": full["mamba_n_groups"],
        "conv_size": full["mamba_d_conv"],
        "conv_bias": full["mamba_conv_bias"],
        "input_bias": full["mamba_proj_bias"],
        "output_bias": full["projectors_bias"],
        "norm": norm,
        "dt_min": least,
        "dt_max": greatest,
        "input_multiplier": full["ssm_in_multiplier"],
        "output_multiplier": full["ssm_out_multiplier"],
    }
    factors = {f"{name}_multiplier": m for name, m in _factors(full["ssm_multipliers"]).items()}
    return (validated(Mamba2Spec, data | factors, where="Mamba-2 heads"),)


def _width(full: Mapping[str, Any]) -> int:
    """Channels of all heads together (d_ssm): given, or `mamba_expand` times the hidden size."""
    given = full["mamba_d_ssm"]
    width = int(full["mamba_expand"] * full["hidden_size"]) if given is None else given
    if not is_integer(width) or width < 1:
        raise HydraHeadError(f"mamba_d_ssm is {given!r}", mend="use a positive integer or null")
    return width


def _step_limits(limits: Any) -> tuple[float, float | None]:
    if limits is None:
        return 0.0, None
    pair = _listed(limits)
    if len(pair) != 2:
        raise HydraHeadError(f"time_step_limit is {limits!r}", mend="give two numbers, or null")
    least, greatest = (_number(limit) for limit in pair)
    return least, None if math.isinf(greatest) else greatest


def _number(value: Any) -> float:
    """A number; transformers writes an infinite one as an object with its name."""
    if is_object(value):
        value = value.get("__float__")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise HydraHeadError(
            f"time_step_limit holds {value!r}", mend="give two numbers, or null"
        ) from None


def _factors(given: Any) -> dict[str, float]:
    if given is None:
        return dict.fromkeys(_CHUNKS, 1.0)
    listed = _listed(given)
    if len(listed) != len(_CHUNKS):
        raise HydraHeadError(
            f"ssm_multipliers is {given!r}", mend="give five numbers: for z, x, B, C and dt"
        )
    return dict(zip(_CHUNKS, listed, strict=True))


def _listed(value: Any) -> list[Any]:
    """The items of a list or tuple, nothing of anything else."""
    return list(cast(Sequence[Any], value)) if isinstance(value, list | tuple) else []
