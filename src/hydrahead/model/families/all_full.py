"""The plan every teacher has: each head runs the teacher's own attention."""

import json

from hydrahead.model.configuration import HydraConfig
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import MixerSpec


def foreign_mixer(plan: HeadPlan) -> str | None:
    """What in `plan` is not its teacher's own attention, in words; None if nothing is."""
    teacher = HeadPlan.all_full(plan.geometry, plan.unit)
    for index, (layer, own) in enumerate(zip(plan.layers, teacher.layers, strict=True)):
        added = layer.parallel[len(own.parallel) :]
        if added:
            return f"layer {index} has a parallel mixer, {added[0].name}"
        for unit, (spec, own_spec) in enumerate(zip(layer.units, own.units, strict=True)):
            if spec != own_spec:
                changed = f" ({_difference(spec, own_spec)})" if spec.name == own_spec.name else ""
                return f"layer {index}, {plan.unit} {unit} runs {spec.name}{changed}"
    return None


def with_plan(config: HydraConfig, plan: HeadPlan) -> HydraConfig:
    """`config` with `plan` inside; changes `config` itself."""
    config.plan = json.loads(plan.to_json())
    return config


def with_all_full_plan(config: HydraConfig, geometry: ModelGeometry) -> HydraConfig:
    """`config` with the teacher's own plan inside; changes `config` itself."""
    return with_plan(config, HeadPlan.all_full(geometry))


def _difference(spec: MixerSpec, own: MixerSpec) -> str:
    mine, theirs = spec.model_dump(), own.model_dump()
    return ", ".join(f"{key}={mine[key]}" for key in mine if mine[key] != theirs[key])
