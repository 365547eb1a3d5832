"""Which rows of which tensors hold the queries, keys and values of a layer's heads.

Linear layers reuse the parameter names of full-attention layers, so a name decides nothing: our
hybrids are read by their plan, other checkpoints by their family and its layer types
(`surgery_families`). What a unit is follows from what it remembers: a mixer whose keys and values
grow with every token is full attention, one that keeps a bounded number of them a window, one that
keeps none linear.
"""

from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any, Literal

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.families.teacher import is_hybrid
from hydrahead.model.families.values import read_hybrid_config
from hydrahead.plan.assignment import MixerAssignment
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import HeadShape, MixerSpec
from hydrahead.transfer.surgery_families import family_units
from hydrahead.transfer.surgery_rows import AttentionUnits, HeadRows, Kind, by_head

Wanted = Literal["full", "softmax", "linear", "all"]
KINDS: dict[str, tuple[Kind, ...]] = {
    "full": ("full",),
    "softmax": ("full", "window"),
    "linear": ("linear",),
    "all": ("full", "window", "linear"),
}
"""What `--layers` can name -> the units that are meant."""

_SHORT, _LONG = 1 << 20, 1 << 21
_MEND = "write full, softmax, linear or all, layer numbers (3,7,12-15), or both (softmax:20,21)"


def find_units(
    directory: Path, config: dict[str, Any], reader: SafetensorsReader
) -> tuple[AttentionUnits, ...]:
    """Every layer's units that have queries and keys, ascending by layer.

    Args:
        directory: Of the checkpoint, for messages.
        config: Its config.json.
        reader: Its tensors.

    Raises:
        HydraHeadError: a family, layer type or tensor layout that is not known.
    """
    if not is_hybrid(config):
        return family_units(directory, config, reader)
    where = directory / "config.json"
    return plan_units(read_hybrid_config(config, where=where).head_plan, reader)


def plan_units(plan: HeadPlan, names: Container[str]) -> tuple[AttentionUnits, ...]:
    """The units of a hybrid of ours: one entry per mixer that has q and k projections.

    Args:
        plan: Its plan.
        names: Its tensors (or parameters), by name.
    """
    found: list[AttentionUnits] = []
    for layer in range(plan.geometry.num_layers):
        for number, assignment in enumerate(plan.layer_mixers(layer)):
            prefix = f"model.layers.{layer}.self_attn.mixers.{number}.projections"
            if f"{prefix}.q.weight" in names and f"{prefix}.k.weight" in names:
                found.append(_mixer_units(plan, layer, assignment, prefix, names))
    return tuple(found)


def kind_of(spec: MixerSpec) -> Kind:
    """Full, window or linear, by what one head remembers of a long context."""
    shape = HeadShape(num_groups=1, num_heads=1, head_dim=1, hidden_size=1)
    short, long = (spec.kv_bytes(shape, context, 1) for context in (_SHORT, _LONG))
    if long > short:
        return "full"
    return "window" if short else "linear"


def choose_units(
    units: Sequence[AttentionUnits], layers: str, *, where: Path | None = None
) -> tuple[AttentionUnits, ...]:
    """The units that `--layers` means.

    Args:
        units: Those of the checkpoint.
        layers: `full` (default), `softmax` (windows too), `linear`, `all`; or layer numbers and
            ranges, which mean the full-attention units of those layers; or `KIND:NUMBERS`.

    Raises:
        HydraHeadError: not such a text, or a layer named that has no such unit.
    """
    kind, numbers = _parsed(layers)
    chosen = [unit for unit in units if unit.kind in KINDS[kind]]
    if not chosen:
        there = sorted({unit.kind for unit in units})
        raise HydraHeadError(
            f"no layer has {kind} attention with queries and keys (there is: {', '.join(there)})",
            where=where,
            mend="choose other --layers",
        )
    if numbers is None:
        return tuple(chosen)
    have = {unit.layer for unit in chosen}
    for number in numbers:
        if number not in have:
            shown = ", ".join(map(str, sorted(have)))
            raise HydraHeadError(
                f"layer {number} has no {kind} attention (layers {shown} have)",
                where="--layers",
                mend="name those, or another kind (softmax:NUMBERS, linear:NUMBERS)",
            )
    return tuple(unit for unit in chosen if unit.layer in numbers)


def _parsed(layers: str) -> tuple[str, frozenset[int] | None]:
    text = layers.replace(" ", "")
    kind, colon, rest = text.partition(":")
    if not colon:
        kind, rest = (text, "") if text in KINDS else ("full", text)
    if kind not in KINDS or (colon and not rest):
        raise HydraHeadError(f"cannot read {layers!r}", where="--layers", mend=_MEND)
    if not rest:
        return kind, None
    numbers: set[int] = set()
    for part in rest.split(","):
        first, dash, last = part.partition("-")
        ends = (first, last if dash else first)
        if not all(end.isascii() and end.isdigit() for end in ends) or int(ends[0]) > int(ends[1]):
            raise HydraHeadError(f"cannot read {layers!r}", where="--layers", mend=_MEND)
        numbers.update(range(int(ends[0]), int(ends[1]) + 1))
    return kind, frozenset(numbers)


def _mixer_units(
    plan: HeadPlan, layer: int, assignment: MixerAssignment, prefix: str, names: Container[str]
) -> AttentionUnits:
    width = plan.geometry.head_dim
    sizes = [len(group.q_heads) for group in assignment.groups]

    def rows(role: str, count: int) -> HeadRows:
        norm = f"{prefix}.{role}_norm.weight"
        return HeadRows(
            module=f"{prefix}.{role}",
            heads=by_head(count, width),
            norm=norm if norm in names else None,
        )

    return AttentionUnits(
        layer=layer,
        kind=kind_of(assignment.spec),
        q=rows("q", sum(sizes)),
        k=rows("k", len(sizes)),
        v=rows("v", len(sizes)),
        kv_of_q=tuple(group for group, size in enumerate(sizes) for _ in range(size)),
    )
