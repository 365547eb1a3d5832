"""The rows a restoration changes, and what they become; values are computed when asked for.

A patch is at most `PIECE_BYTES` of one tensor (a query head of the closed form is one piece), so
whoever writes patches one after the other holds one piece in memory, whatever the model's size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.safetensors_io import read_rows
from hydrahead.transfer.surgery_rows import AttentionUnits, HeadRows, Span
from hydrahead.transfer.surgery_variants import Role, Variant, blended, closed_form

PIECE_BYTES = 8 << 20


class RowSource(Protocol):
    """Tensors of which rows can be read."""

    def __contains__(self, name: object) -> bool: ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        ...

    def rows(self, name: str, span: Span) -> Tensor:
        """Some rows of one tensor, in its stored dtype."""
        ...


class StoredRows:
    """Rows read from a checkpoint when they are needed."""

    def __init__(self, reader: SafetensorsReader) -> None:
        self._reader = reader

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._reader

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self._reader.entry(name).shape

    def rows(self, name: str, span: Span) -> Tensor:
        """Some rows, in fresh memory."""
        return read_rows(self._reader.entry(name), *span)


class HeldRows:
    """Rows of tensors in memory (a state dict); what is read is never changed later."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return tuple(self._tensors[name].shape)

    def rows(self, name: str, span: Span) -> Tensor:
        """Some rows, copied."""
        return self._tensors[name].detach()[slice(*span)].clone()


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """New rows of one tensor."""

    tensor: str
    span: Span
    values: Callable[[], Tensor]
    """[rows, ...] in fp64 or the stored dtype."""
    exact: bool
    """The values are the pre checkpoint's, bit for bit."""


def patches(
    units: Sequence[AttentionUnits], variant: Variant, pre: RowSource, post: RowSource
) -> tuple[Patch, ...]:
    """Everything `variant` changes in `units`, no row twice.

    Raises:
        HydraHeadError: the variant asks for norms, biases or values that no unit has.
    """
    found = [patch for unit in units for patch in _unit_patches(unit, variant, pre, post)]
    changed = {patch.tensor for patch in found}
    norms = {rows.norm for unit in units for rows in (unit.q, unit.k)}
    biases = {name for name in changed if name.endswith(".bias")}
    for asked, there, what in (
        (variant.norms, norms & changed, "q and k norms"),
        (variant.bias, biases, "biases"),
    ):
        if asked and not there:
            raise HydraHeadError(
                f"the units have no {what} to restore",
                where=f"--variant {variant.name}",
                mend=f"use --variant {variant.base}",
            )
    return tuple(found)


def _unit_patches(
    unit: AttentionUnits, variant: Variant, pre: RowSource, post: RowSource
) -> Iterator[Patch]:
    for role in variant.roles:
        rows = _rows(unit, role)
        if role == "q" and variant.base == "pro":
            yield from _closed_form_patches(unit, variant, pre, post)
        else:
            for span in rows.spans():
                yield from _copies(f"{rows.module}.weight", span, variant.alpha, pre, post)
        bias = f"{rows.module}.bias"
        if variant.bias and bias in pre:
            for span in rows.spans():
                yield from _copies(bias, span, variant.alpha, pre, post)
        if variant.norms and rows.norm is not None:
            whole = (0, pre.shape(rows.norm)[0])
            yield from _copies(rows.norm, whole, variant.alpha, pre, post)


def _rows(unit: AttentionUnits, role: Role) -> HeadRows:
    rows: HeadRows | None = getattr(unit, role)
    if rows is None:
        raise HydraHeadError(
            f"layer {unit.layer} has no rows that are known to be values",
            where="--variant v",
            mend="leave the layer out of --layers",
        )
    return rows


def _copies(
    tensor: str, span: Span, alpha: float, pre: RowSource, post: RowSource
) -> Iterator[Patch]:
    width = 8
    for size in pre.shape(tensor)[1:]:
        width *= size
    step = max(1, PIECE_BYTES // width)
    for start in range(*span, step):
        piece = (start, min(start + step, span[1]))
        values = partial(_copied, tensor, piece, alpha, pre, post)
        yield Patch(tensor=tensor, span=piece, values=values, exact=alpha == 1.0)


def _copied(tensor: str, span: Span, alpha: float, pre: RowSource, post: RowSource) -> Tensor:
    wanted = pre.rows(tensor, span)
    return wanted if alpha == 1.0 else blended(post.rows(tensor, span), wanted, alpha)


def _closed_form_patches(
    unit: AttentionUnits, variant: Variant, pre: RowSource, post: RowSource
) -> Iterator[Patch]:
    sizes = {stop - start for start, stop in (*unit.q.heads, *unit.k.heads)}
    if len(sizes) > 1 or len(unit.q.heads) != len(unit.kv_of_q):
        raise HydraHeadError(
            f"layer {unit.layer}: queries and keys have no heads of one width",
            where="--variant pro",
            mend="leave the layer out of --layers",
        )
    for span, kv_head in zip(unit.q.heads, unit.kv_of_q, strict=True):
        values = partial(_closed, unit, span, kv_head, variant, pre, post)
        yield Patch(tensor=f"{unit.q.module}.weight", span=span, values=values, exact=False)


def _closed(
    unit: AttentionUnits,
    span: Span,
    kv_head: int,
    variant: Variant,
    pre: RowSource,
    post: RowSource,
) -> Tensor:
    assert variant.lambda_ is not None
    tensor = f"{unit.q.module}.weight"
    before = post.rows(tensor, span)
    key = pre.rows(f"{unit.k.module}.weight", unit.k.heads[kv_head])
    wanted = closed_form(before, pre.rows(tensor, span), key, variant.lambda_)
    return blended(before, wanted, variant.alpha)
