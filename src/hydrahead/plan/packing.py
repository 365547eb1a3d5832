"""A plan as plain data: the list of distinct specs, and per layer the index of each unit's spec."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.geometry import ModelGeometry, Unit
from hydrahead.plan.problems import validated
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.table import spec_from_dict, spec_to_dict

FORMAT_VERSION = 1
SpecRows = Sequence[tuple[MixerSpec, ...]]
"""One row of specs per layer."""


class _PackedPlan(BaseModel, frozen=True, extra="forbid"):
    """The outer shape of the data."""

    format_version: int
    geometry: dict[str, Any]
    unit: Unit
    specs: list[dict[str, Any]]
    layers: list[list[int]]
    parallel: list[list[int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedPlan:
    """The parts of a plan, not yet checked against each other but for the number of rows."""

    geometry: ModelGeometry
    unit: Unit
    units: SpecRows
    parallel: SpecRows


def pack_plan(
    geometry: ModelGeometry, unit: Unit, *, units: SpecRows, parallel: SpecRows
) -> dict[str, Any]:
    """Plain data; `parallel` is left out where no layer has a parallel mixer."""
    index: dict[MixerSpec, int] = {}
    for own, beside in zip(units, parallel, strict=True):
        for spec in (*own, *beside):
            index.setdefault(spec, len(index))
    data: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "geometry": geometry.model_dump(mode="json"),
        "unit": unit,
        "specs": [spec_to_dict(spec) for spec in index],
        "layers": [[index[spec] for spec in row] for row in units],
    }
    if any(parallel):
        data["parallel"] = [[index[spec] for spec in row] for row in parallel]
    return data


def unpack_plan(data: Mapping[str, Any], *, where: str) -> UnpackedPlan:
    """Read what `pack_plan` made.

    Raises:
        HydraHeadError: another format version, an unknown key, mixer or setting,
            an index without a spec.
    """
    if data.get("format_version") != FORMAT_VERSION:
        raise HydraHeadError(
            f"plan format {data.get('format_version')!r} cannot be read, only {FORMAT_VERSION}",
            where=where,
            mend="make the plan again, or use the version of hydrahead that wrote it",
        )
    packed = validated(_PackedPlan, data, where=where)
    geometry = ModelGeometry.from_dict(packed.geometry, where=where)
    specs = [spec_from_dict(entry, where=where) for entry in packed.specs]
    units = _rows("layers", packed.layers, specs, where)
    none: list[list[int]] = [[] for _ in units]
    beside = none if packed.parallel is None else packed.parallel
    if len(beside) != len(units):
        raise HydraHeadError(f"parallel has {len(beside)} layers, layers {len(units)}", where=where)
    parallel = _rows("parallel", beside, specs, where)
    return UnpackedPlan(geometry=geometry, unit=packed.unit, units=units, parallel=parallel)


def _rows(
    key: str, rows: Sequence[Sequence[int]], specs: Sequence[MixerSpec], where: str
) -> SpecRows:
    for layer, row in enumerate(rows):
        for index in row:
            if not 0 <= index < len(specs):
                raise HydraHeadError(
                    f"{key} of layer {layer} names spec {index} of {len(specs)}", where=where
                )
    return [tuple(specs[index] for index in row) for row in rows]
