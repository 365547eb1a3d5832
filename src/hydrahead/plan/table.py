"""The table of mixers: one line per mixer, strings only.

A new mixer is a spec file, a mixer file and a line here. Nothing is imported before it is asked
for, so the plan room never pulls in torch.
"""

import json
from collections.abc import Mapping
from typing import Any

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.core.tables import Table
from hydrahead.plan.problems import validated
from hydrahead.plan.specs.base import MixerSpec

MIXERS: Mapping[str, tuple[str, str]] = {
    "full": ("hydrahead.plan.specs.full:FullSpec", "hydrahead.mixers.full:FullMixer"),
    "window": ("hydrahead.plan.specs.window:WindowSpec", "hydrahead.mixers.window:WindowMixer"),
    "gated_delta": (
        "hydrahead.plan.specs.gated_delta:GatedDeltaSpec",
        "hydrahead.mixers.gated_delta:GatedDeltaMixer",
    ),
    "lightning": (
        "hydrahead.plan.specs.lightning:LightningSpec",
        "hydrahead.mixers.lightning:LightningMixer",
    ),
    "mamba2": ("hydrahead.plan.specs.mamba2:Mamba2Spec", "hydrahead.mixers.mamba2:Mamba2Mixer"),
}
"""Mixer name -> (its spec, its module), both as "package.module:Attribute"."""

_SPECS = Table("mixer", {name: spec for name, (spec, _) in MIXERS.items()})
_MODULES = Table("mixer", {name: module for name, (_, module) in MIXERS.items()})


def spec_class(name: str) -> type[MixerSpec]:
    """The settings class of mixer `name`; an unknown name raises HydraHeadError."""
    return _SPECS.load(name)


def mixer_class(name: str) -> type[Any]:
    """The module class of mixer `name`, a `mixers.contract.HeadMixer`; imports torch."""
    return _MODULES.load(name)


def spec_to_dict(spec: MixerSpec) -> dict[str, Any]:
    """Every setting of `spec`, its name first: what `spec_from_dict` reads."""
    return {"name": spec.name} | spec.model_dump(mode="json")


def spec_from_dict(data: Mapping[str, Any], *, where: str | None = None) -> MixerSpec:
    """The spec that `data` describes: its "name", and any settings that differ from the defaults.

    Raises:
        HydraHeadError: no or an unknown name, an unknown setting, a wrong value.
    """
    name = data.get("name")
    if not isinstance(name, str):
        raise HydraHeadError(
            "a mixer's settings lack its name",
            where=where,
            mend=f'add "name": one of {", ".join(MIXERS)}',
        )
    if name not in MIXERS:
        unknown = unknown_name("mixer", name, MIXERS)
        raise HydraHeadError(unknown.what, where=where, mend=unknown.mend)
    place = f"mixer {name}"
    return validated(spec_class(name), data, where=f"{where}: {place}" if where else place)


def parse_settings(text: str) -> tuple[str, dict[str, Any]]:
    """Split "name:key=value,key=value" into the name and its settings.

    Values are read as JSON (128, 0.5, true, null), else as text.

    Raises:
        HydraHeadError: a setting without "=" or given twice.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, Any] = {}
    for part in filter(None, (piece.strip() for piece in rest.split(","))):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not key or key in settings:
            raise HydraHeadError(
                f"cannot read the setting {part!r} of {text!r}",
                mend="write each setting once, as key=value: window:window=128,sinks=4",
            )
        settings[key] = _value(value)
    return name.strip(), settings


def _value(text: str) -> Any:
    lowered = text.lower()
    try:
        return json.loads({"none": "null"}.get(lowered, lowered))
    except json.JSONDecodeError:
        return text
