"""Presets: which settings full and linear heads get, unless the user says otherwise."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.table import parse_settings, spec_class, spec_from_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Settings of both sides of a hybrid."""

    full: FullSpec
    replacement: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Settings of the mixer that replaces full attention, where it has a setting of that name."""


PRESETS: Mapping[str, Preset] = {
    # Full heads keep the teacher's attention exactly.
    "plain": Preset(full=FullSpec()),
    # HydraHead (arXiv 2606.20097): NoPE, log-length query scale and gate on full heads; rope, keys
    # and values per q_head and gate on linear ones. The scale's base is HALO's for 2B models.
    "paper": Preset(
        full=FullSpec(rope=False, log_length_scale=500.0, output_gate=True, normalise_output=True),
        replacement={"rope": True, "expand_kv": True, "output_gate": True},
    ),
}


def preset_specs(preset: str, linear: str | MixerSpec) -> tuple[FullSpec, MixerSpec]:
    """The specs of full units and of those that are replaced.

    Full heads are normalised only beside a mixer that is: a plan of softmax mixers alone has no
    fusion.

    Args:
        preset: a name of `PRESETS`.
        linear: a mixer by name, with settings that win over the preset's
            ("gated_delta:conv_size=0", "window:window=128,sinks=4"), or a spec, taken as it is.

    Raises:
        HydraHeadError: an unknown preset, mixer or setting; full attention, or a mixer that takes
            no slots, as the replacement.
    """
    if preset not in PRESETS:
        raise unknown_name("preset", preset, PRESETS)
    chosen = PRESETS[preset]
    replacement = _with_preset(linear, chosen) if isinstance(linear, str) else linear
    if replacement.name == "full" or not replacement.takes_slots:
        raise HydraHeadError(
            f"{replacement.name} cannot replace full attention",
            mend="give gated_delta, lightning or window:window=N as the linear mixer",
        )
    normalise = chosen.full.normalise_output and replacement.normalise_output
    return chosen.full.model_copy(update={"normalise_output": normalise}), replacement


def _with_preset(text: str, preset: Preset) -> MixerSpec:
    name, settings = parse_settings(text)
    known = spec_class(name).model_fields
    defaults = {key: value for key, value in preset.replacement.items() if key in known}
    return spec_from_dict({**defaults, **settings, "name": name}, where="linear mixer")
