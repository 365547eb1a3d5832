"""Taking mixers from twins: linear versions of the teacher's heads, aligned before any plan.

Twins are a hybrid in which every slot runs linearly. A plan's mixer with the same spec takes its
parameters from there: rows of its heads by `HeadMixer.row_layout`, shared parameters whole. A twin
whose groups are whole kv_heads also serves a mixer with a group per q_head; each group gets a copy
of the kv_head's rows.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.contract import HeadMixer, RowAxis
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.teacher import is_hybrid, read_config
from hydrahead.plan.assignment import MixerAssignment
from hydrahead.plan.head_plan import HeadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinMixer:
    """The mixer of a twins' layer that runs the spec asked for."""

    prefix: str
    assignment: MixerAssignment


class Twins:
    """An open twins directory.

    Raises:
        HydraHeadError: not one of our directories, or missing or damaged weights.
    """

    def __init__(self, directory: Path) -> None:
        config = read_config(directory)
        if not is_hybrid(config):
            raise HydraHeadError(
                "not a hybrid, so there are no twins in it",
                where=directory,
                mend="make twins with: plan --full-fraction 0, convert, distill --stages align",
            )
        self.directory = directory
        self.config = HydraConfig.from_dict(config)
        self.plan = self.config.head_plan
        self.reader = SafetensorsReader(directory)

    def require(self, plan: HeadPlan) -> None:
        """Refuse a plan that these twins cannot serve.

        Raises:
            HydraHeadError: twins of another model, of the right mixer with other settings, twins
                that lack slots of the plan or group them otherwise, or twins that serve nothing at
                all.
        """
        self.plan.require_geometry(plan.geometry, where=self.directory)
        served = False
        for layer in range(plan.geometry.num_layers):
            for assignment in plan.layer_mixers(layer):
                twin = self.find(layer, assignment)
                served |= twin is not None
        if not served:
            wanted = ", ".join(sorted({spec.name for spec in plan.distinct_specs()}))
            held = ", ".join(sorted({spec.name for spec in self.plan.distinct_specs()}))
            raise HydraHeadError(
                f"these twins hold {held}; a plan of {wanted} takes nothing from them",
                where=self.directory,
                mend="align twins with the plan's linear mixer, or convert without twins",
            )

    def find(self, layer: int, assignment: MixerAssignment) -> TwinMixer | None:
        """The twin of one mixer; None where the twins have no mixer of its kind in that layer."""
        for index, twin in enumerate(self.plan.layer_mixers(layer)):
            if twin.spec == assignment.spec:
                found = TwinMixer(
                    prefix=f"model.layers.{layer}.self_attn.mixers.{index}.", assignment=twin
                )
                self._require_slots(layer, found, assignment)
                return found
        for twin in self.plan.layer_mixers(layer):
            if twin.spec.name == assignment.spec.name:
                mine, theirs = assignment.spec.model_dump(), twin.spec.model_dump()
                key = next(key for key in mine if mine[key] != theirs[key])
                raise HydraHeadError(
                    f"layer {layer}: the twins' {twin.spec.name} has {key}={theirs[key]}, "
                    f"the plan's {key}={mine[key]}",
                    where=self.directory,
                    mend="plan with the twins' settings, or align twins with the plan's",
                )
        return None

    def fill(self, mixer: HeadMixer, twin: TwinMixer) -> None:
        """Set every parameter of `mixer` from its twin; changes `mixer`."""
        rows = {
            "q_head": _q_rows(mixer.shape.q_slots, twin.assignment),
            "kv_head": [_group_of(group.q_heads, twin.assignment) for group in mixer.shape.groups],
        }
        sizes = {"q_head": len(twin.assignment.q_slots), "kv_head": len(twin.assignment.groups)}
        with torch.no_grad():
            for name, parameter in mixer.named_parameters():
                tensor = self.reader.read(twin.prefix + name)
                axis: RowAxis | None = mixer.row_layout.get(name)
                if axis is not None:
                    tensor = _cut(tensor, sizes[axis], rows[axis])
                if tensor.shape != parameter.shape:
                    raise HydraHeadError(
                        f"tensor {twin.prefix + name!r} has shape {list(tensor.shape)} when cut, "
                        f"{list(parameter.shape)} is needed",
                        where=self.directory,
                        mend="align the twins again",
                    )
                parameter.copy_(tensor)

    def gamma(self, layer: int) -> Tensor | None:
        """The fusion scalars of a layer, by teacher slot (q_heads); None if the layer has none."""
        name = f"model.layers.{layer}.self_attn.fusion.gamma"
        return self.reader.read(name) if name in self.reader else None

    def _require_slots(self, layer: int, twin: TwinMixer, assignment: MixerAssignment) -> None:
        missing = sorted(set(assignment.q_slots) - set(twin.assignment.q_slots))
        if missing:
            raise HydraHeadError(
                f"layer {layer}: there is no twin of q_head {missing[0]}",
                where=self.directory,
                mend="make twins at full_fraction 0",
            )
        for group in assignment.groups:
            held = set(twin.assignment.groups[_group_of(group.q_heads, twin.assignment)].q_heads)
            if not held.issuperset(group.q_heads):
                raise HydraHeadError(
                    f"layer {layer}: the plan runs kv_head {group.kv_head} as one group, the twins "
                    "have a group for each of its q_heads",
                    where=self.directory,
                    mend="make twins with units of kv_heads and without K/V expansion",
                )


def _q_rows(q_slots: tuple[int, ...], twin: MixerAssignment) -> list[int]:
    place = {slot: index for index, slot in enumerate(twin.q_slots)}
    return [place[slot] for slot in q_slots]


def _group_of(q_heads: tuple[int, ...], twin: MixerAssignment) -> int:
    """The twin's group that runs the first of `q_heads`."""
    return next(i for i, group in enumerate(twin.groups) if q_heads[0] in group.q_heads)


def _cut(tensor: Tensor, num_heads: int, rows: list[int]) -> Tensor:
    return tensor.unflatten(0, (num_heads, -1))[rows].flatten(0, 1)
