"""`HeadPlan`: which mixer every unit of every layer runs.

A plan gives each unit (a kv_head with its q_heads, or a single q_head) exactly one spec, and a
layer may have parallel mixers beside them, which bring heads of their own. A layer whose checkpoint
has a sliding window of its own keeps it: its units are that window, outside `full_fraction`.

A plan is checked when it is made, never changes, and survives JSON without loss.
"""

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, InstanceOf, model_validator

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import parse_json
from hydrahead.plan.assignment import MixerAssignment
from hydrahead.plan.cost import PlanCost, mixers_cost
from hydrahead.plan.geometry import ModelGeometry, Unit
from hydrahead.plan.grouping import assign_mixers, groups_by_kv_head
from hydrahead.plan.packing import pack_plan, unpack_plan
from hydrahead.plan.problems import is_object
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.window import WindowSpec


class LayerPlan(BaseModel, frozen=True, extra="forbid"):
    """One layer: a spec per unit, and parallel mixers that take no slot."""

    units: tuple[InstanceOf[MixerSpec], ...]
    parallel: tuple[InstanceOf[MixerSpec], ...] = ()


class HeadPlan(BaseModel, frozen=True, extra="forbid"):
    """Which mixer every unit runs, in every layer."""

    geometry: ModelGeometry
    unit: Unit = "kv_head"
    layers: tuple[LayerPlan, ...]

    @model_validator(mode="after")
    def _valid(self) -> Self:
        if len(self.layers) != self.geometry.num_layers:
            raise HydraHeadError(
                f"the plan has {len(self.layers)} layers, its geometry {self.geometry.num_layers}"
            )
        for index, layer in enumerate(self.layers):
            _check_layer(self, index, layer)
        return self

    @classmethod
    def uniform(cls, geometry: ModelGeometry, spec: MixerSpec, unit: Unit = "kv_head") -> Self:
        """`spec` everywhere but in layers with a window of their own, which keep it.

        The checkpoint's own parallel mixers stay beside it.
        """
        count = geometry.units_per_layer(unit)
        layers = tuple(
            LayerPlan(
                units=(spec if window is None else teacher_window(window),) * count,
                parallel=geometry.parallel,
            )
            for window in geometry.layer_windows
        )
        return cls(geometry=geometry, unit=unit, layers=layers)

    @classmethod
    def all_full(cls, geometry: ModelGeometry, unit: Unit = "kv_head") -> Self:
        """The teacher's own attention."""
        return cls.uniform(geometry, FullSpec(), unit)

    @property
    def units_per_layer(self) -> int:
        """kv_heads or q_heads per layer."""
        return self.geometry.units_per_layer(self.unit)

    @property
    def num_free_units(self) -> int:
        """Units a plan may give away: those of layers without a window of their own."""
        return len(self.geometry.free_layers) * self.units_per_layer

    @property
    def num_full_units(self) -> int:
        """Free units that run full attention."""
        return sum(spec.name == "full" for _, _, spec in self.free_units())

    @property
    def full_fraction(self) -> float:
        """Share of the free units that stay full, in [0, 1]; 1 where there is no free unit."""
        return self.num_full_units / self.num_free_units if self.num_free_units else 1.0

    def free_units(self) -> Iterator[tuple[int, int, MixerSpec]]:
        """(layer, unit, spec) of every unit a plan may give away."""
        for layer in self.geometry.free_layers:
            for unit, spec in enumerate(self.layers[layer].units):
                yield layer, unit, spec

    def spec_at(self, layer: int, unit: int) -> MixerSpec:
        """The spec that `unit` of `layer` runs."""
        return self.layers[layer].units[unit]

    def slots_of(self, layer: int, spec: MixerSpec) -> tuple[int, ...]:
        """The units of `layer` that run `spec`, ascending."""
        return tuple(unit for unit, other in enumerate(self.layers[layer].units) if other == spec)

    def distinct_specs(self) -> tuple[MixerSpec, ...]:
        """Every spec in use, parallel ones included, in order of first use."""
        used = (spec for layer in self.layers for spec in (*layer.units, *layer.parallel))
        return tuple(dict.fromkeys(used))

    def replace(self, changes: Mapping[tuple[int, int], MixerSpec]) -> "HeadPlan":
        """A new plan in which the units `(layer, unit)` run other specs.

        Raises:
            HydraHeadError: no such unit, or a change that the plan's rules forbid.
        """
        rows = [list(layer.units) for layer in self.layers]
        for (layer, unit), spec in changes.items():
            if not (0 <= layer < len(rows) and 0 <= unit < self.units_per_layer):
                raise HydraHeadError(
                    f"there is no {self.unit} {unit} in layer {layer}",
                    mend=f"there are {len(rows)} layers of {self.units_per_layer} {self.unit}s",
                )
            rows[layer][unit] = spec
        layers = tuple(
            LayerPlan(units=tuple(row), parallel=layer.parallel)
            for row, layer in zip(rows, self.layers, strict=True)
        )
        return HeadPlan(geometry=self.geometry, unit=self.unit, layers=layers)

    def layer_mixers(self, layer: int) -> tuple[MixerAssignment, ...]:
        """The mixers that take slots in `layer`: one per distinct spec, in order of first unit."""
        return assign_mixers(self.geometry, self.unit, self.layers[layer].units)

    def layer_cost(self, layer: int, context: int, *, kv_dtype: str = "bfloat16") -> PlanCost:
        """Cost of one layer for one sequence of `context` tokens, parallel mixers included."""
        every_head = groups_by_kv_head(self.geometry, range(self.geometry.num_q_heads))
        parallel = tuple(
            MixerAssignment(spec=spec, groups=every_head) for spec in self.layers[layer].parallel
        )
        return mixers_cost(
            (*self.layer_mixers(layer), *parallel),
            head_dim=self.geometry.head_dim,
            hidden_size=self.geometry.hidden_size,
            context=context,
            kv_dtype=kv_dtype,
        )

    def cost(self, context: int, batch: int = 1, kv_dtype: str = "bfloat16") -> PlanCost:
        """The honest cost of `batch` sequences of `context` tokens each.

        A kv_head that full attention keeps for any of its q_heads is paid for whole.

        Args:
            context: tokens already in the cache.
            batch: sequences.
            kv_dtype: dtype of cached keys and values (recurrent states are fp32 whatever it is).

        Raises:
            HydraHeadError: an unknown kv_dtype, a negative context or batch.
        """
        if context < 0 or batch < 0:
            raise HydraHeadError(f"no cost exists at context {context} and batch {batch}")
        layers = range(self.geometry.num_layers)
        per_layer = (self.layer_cost(layer, context, kv_dtype=kv_dtype) for layer in layers)
        return sum(per_layer, PlanCost()) * batch

    def require_geometry(self, geometry: ModelGeometry, *, where: str | Path | None = None) -> None:
        """Refuse a model this plan was not made for; `ModelGeometry.require_same` says how."""
        self.geometry.require_same(geometry, what="the plan", where=where)

    def for_geometry(
        self, geometry: ModelGeometry, *, where: str | Path | None = None
    ) -> "HeadPlan":
        """This plan for `geometry`, which may differ from the plan's only in context length."""
        self.require_geometry(geometry, where=where)
        return HeadPlan(geometry=geometry, unit=self.unit, layers=self.layers)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what `from_dict` reads, and what a hybrid's config holds.

        Every setting is written out, so that a later change of a default changes no old plan.
        """
        return pack_plan(
            self.geometry,
            self.unit,
            units=[layer.units for layer in self.layers],
            parallel=[layer.parallel for layer in self.layers],
        )

    def to_json(self) -> str:
        """The plan as one line of JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str | Path | None = None) -> "HeadPlan":
        """The inverse of `to_dict`.

        Raises:
            HydraHeadError: another format version, an unknown key, mixer or setting, an index
                without a spec, or a plan that breaks a rule.
        """
        packed = unpack_plan(data, where=str(where or "plan"))
        layers = tuple(
            LayerPlan(units=units, parallel=parallel)
            for units, parallel in zip(packed.units, packed.parallel, strict=True)
        )
        try:
            return cls(geometry=packed.geometry, unit=packed.unit, layers=layers)
        except HydraHeadError as error:
            place = ": ".join(str(part) for part in (where, error.where) if part)
            raise HydraHeadError(error.what, where=place or "plan", mend=error.mend) from None

    @classmethod
    def from_json(cls, text: str, *, where: str | Path | None = None) -> "HeadPlan":
        """The inverse of `to_json`."""
        data = parse_json(text, where=where or "plan")
        if not is_object(data):
            raise HydraHeadError("a plan is a JSON object", where=where or "plan")
        return cls.from_dict(data, where=where)


@lru_cache
def teacher_window(window: int) -> WindowSpec:
    """The attention of a layer whose checkpoint has a window of its own."""
    return WindowSpec(window=window, sinks=0)


def _check_layer(plan: HeadPlan, index: int, layer: LayerPlan) -> None:
    where = f"plan, layer {index}"
    if len(layer.units) != plan.units_per_layer:
        raise HydraHeadError(
            f"{len(layer.units)} units given, the layer has {plan.units_per_layer} {plan.unit}s",
            where=where,
        )
    for spec in layer.units:
        if not spec.takes_slots:
            raise HydraHeadError(
                f"{spec.name} has heads of its own and cannot take a unit",
                where=where,
                mend="list it as parallel",
            )
    for spec in layer.parallel:
        if spec.takes_slots:
            raise HydraHeadError(
                f"{spec.name} takes slots and cannot be parallel",
                where=where,
                mend="give it a unit",
            )
    own = plan.geometry.parallel
    if layer.parallel[: len(own)] != own:
        names = ", ".join(spec.name for spec in own)
        raise HydraHeadError(
            f"the checkpoint's own parallel mixer is not kept ({names})",
            where=where,
            mend="list it first among the layer's parallel mixers, with the checkpoint's settings",
        )
    window = plan.geometry.layer_windows[index]
    if window is not None and any(spec != teacher_window(window) for spec in layer.units):
        raise HydraHeadError(
            f"the checkpoint's own window of {window} tokens is not kept",
            where=where,
            mend=f"give every unit of this layer window:window={window},sinks=0",
        )
