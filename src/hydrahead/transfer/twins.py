"""Taking mixers from twins: linear versions of the teacher's heads, aligned before any plan.

Twins are a hybrid in which every slot runs linearly. A plan's mixer with the same spec takes its
parameters from there: rows of its heads by `HeadMixer.row_layout`, shared parameters whole. A twin
whose groups are whole kv_heads also serves a mixer with a group per q_head, and each group gets a
copy of the kv_head's rows, provided that this computes the same (lightning's decay belongs to the
group, so it does not).
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.build import build_mixer
from hydrahead.mixers.contract import HeadMixer, MixContext, RowAxis
from hydrahead.model.attention import attention_shape
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.families.teacher import is_hybrid, read_config
from hydrahead.model.families.values import read_hybrid_config
from hydrahead.plan.assignment import MixerAssignment
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import MixerSpec


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
        self.config = read_hybrid_config(config, where=directory / "config.json")
        self.plan = self.config.head_plan
        self.reader = SafetensorsReader(directory)
        self._teacher = HeadPlan.all_full(self.plan.geometry)

    def require(self, plan: HeadPlan) -> None:
        """Refuse a plan that these twins cannot serve.

        Raises:
            HydraHeadError: twins of another model or of another linear mixer, the right mixer with
                other settings, twins that lack slots of the plan or group them otherwise, or a plan
                that takes nothing from twins.
        """
        self.plan.geometry.require_same(
            plan.geometry, what="the set of twins", where=self.directory
        )
        served: set[MixerSpec] = set()
        for layer in range(plan.geometry.num_layers):
            for assignment in plan.layer_mixers(layer):
                twin = self.find(layer, assignment)
                if twin is None and not assignment.spec.shares_keys_when_split:
                    raise self._useless(plan)  # a linear mixer is what twins are for
                if twin is None or assignment.spec in served:
                    continue
                if not set(assignment.groups) <= set(twin.assignment.groups):
                    self._require_same_function(twin, assignment)
                served.add(assignment.spec)
        if not served:
            raise self._useless(plan)

    def find(self, layer: int, assignment: MixerAssignment) -> TwinMixer | None:
        """The twin of one mixer; None where the teacher serves it.

        That is where the mixer is the teacher's own attention, or the twins have none of its kind.
        """
        if assignment.spec == self._teacher.spec_at(layer, 0):
            return None
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
                axis: RowAxis | None = mixer.row_layout.get(name)
                if axis is None:
                    parameter.copy_(self._read(twin.prefix + name, tuple(parameter.shape)))
                    continue
                per_head, *rest = parameter.unflatten(0, (len(rows[axis]), -1)).shape[1:]
                tensor = self._read(twin.prefix + name, (sizes[axis] * per_head, *rest))
                parameter.copy_(_cut(tensor, sizes[axis], rows[axis]))

    def gamma(self, layer: int) -> Tensor | None:
        """The fusion scalars of a layer, by teacher slot (q_heads); None if the layer has none."""
        name = f"model.layers.{layer}.self_attn.fusion.gamma"
        if name not in self.reader:
            return None
        return self._read(name, (self.config.num_attention_heads,))

    def _read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        stored = self.reader.entry(name).shape
        if stored != shape:
            raise HydraHeadError(
                f"tensor {name!r} has shape {list(stored)}, {list(shape)} is needed",
                where=self.directory,
                mend="align the twins again",
            )
        return self.reader.read(name)

    def _useless(self, plan: HeadPlan) -> HydraHeadError:
        wanted, held = (
            ", ".join(sorted({spec.name for spec in each.distinct_specs()}))
            for each in (plan, self.plan)
        )
        return HydraHeadError(
            f"these twins hold {held} and cannot serve a plan of {wanted}",
            where=self.directory,
            mend="align twins with the plan's linear mixer, or convert without twins",
        )

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

    @torch.no_grad()
    def _require_same_function(self, twin: TwinMixer, assignment: MixerAssignment) -> None:
        """Run twin and cut side by side: a mixer may hold constants that depend on its groups."""
        tokens = 8
        whole, cut = (self._build(each, twin) for each in (twin.assignment, assignment))
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(1, tokens, self.config.hidden_size, generator=generator)
        straight = torch.ones(1, tokens, whole.shape.head_dim)
        context = MixContext(
            positions=torch.arange(tokens)[None], cos=straight, sin=torch.zeros_like(straight)
        )
        rows = _q_rows(assignment.q_slots, twin.assignment)
        want, got = whole(hidden, context, None)[0][:, :, rows], cut(hidden, context, None)[0]
        if not torch.allclose(got, want, rtol=1e-3, atol=1e-4 * want.abs().max().item()):
            raise HydraHeadError(
                f"{assignment.spec.name} is another function when its groups are split, so these "
                "twins are not aligned for this plan",
                where=self.directory,
                mend="make twins with units of q_heads, as the plan has",
            )

    def _build(self, assignment: MixerAssignment, twin: TwinMixer) -> HeadMixer:
        shape = attention_shape(self.config, assignment.groups)
        mixer = build_mixer(assignment.spec, shape)
        self.fill(mixer, twin)
        return mixer


def _q_rows(q_slots: tuple[int, ...], twin: MixerAssignment) -> list[int]:
    place = {slot: index for index, slot in enumerate(twin.q_slots)}
    return [place[slot] for slot in q_slots]


def _group_of(q_heads: tuple[int, ...], twin: MixerAssignment) -> int:
    """The twin's group that runs the first of `q_heads`."""
    return next(i for i, group in enumerate(twin.groups) if q_heads[0] in group.q_heads)


def _cut(tensor: Tensor, num_heads: int, rows: list[int]) -> Tensor:
    return tensor.unflatten(0, (num_heads, -1))[rows].flatten(0, 1)
