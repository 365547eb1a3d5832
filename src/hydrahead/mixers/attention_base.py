"""What softmax mixers share: project, normalise, rotate, scale, attend block by block, gate.

A subclass says which keys a stretch of new tokens may see, and what is remembered (`visible`); all
else is here. The log-length scale is s_t = log_a(t + a), t the position in the document, on the
queries (HALO, arXiv 2601.22156).

Invariants: groups are kept in *size order* (same-sized groups adjacent) in keys, values and states,
so that attention runs once per group size on views; inputs and outputs are in mixer order. Padding
queries see at least themselves, so nothing is ever NaN.

Axes: b batch, t new tokens, s keys, d hidden size, h q_heads, n groups, e head_dim.
"""

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hydrahead.mixers.attention_context import AttentionContext, Packing, with_facts
from hydrahead.mixers.contract import (
    HeadMixer,
    MixContext,
    MixerShape,
    MixerState,
    RowAxis,
    TeacherHeads,
)
from hydrahead.mixers.head_order import runs_of, take_heads
from hydrahead.mixers.output_gate import OutputGate
from hydrahead.mixers.projections import Projections, rotate
from hydrahead.mixers.softmax import attend, attend_varlen, varlen_is_available
from hydrahead.mixers.tap_point import TapPoint
from hydrahead.plan.specs.base import MixerSpec

DENSE_TOKENS = 2048
"""A mask never covers more queries at once."""
MASK_ENTRIES = 2**25
"""Nor has it more entries, where that still leaves some queries."""


class AttentionSettings(Protocol):
    """The settings every softmax mixer's spec has."""

    @property
    def rope(self) -> bool:
        """Rotary positions on q and k."""
        ...

    @property
    def qk_norm(self) -> bool:
        """The teacher's per-head norms of q and k."""
        ...

    @property
    def log_length_scale(self) -> float | None:
        """Base of the query scale; None is none."""
        ...

    @property
    def output_gate(self) -> bool:
        """Gate the outputs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A stretch of new tokens and the keys it may see."""

    rows: slice
    tokens: slice
    k: Float[Tensor, "rows n s e"]
    v: Float[Tensor, "rows n s e"]
    mask: Bool[Tensor, "rows_or_one tokens s"] | None = None
    causal: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _SizeClass:
    """Groups with the same number of q_heads: their place in size order."""

    groups: slice
    heads: slice
    group_size: int


class AttentionMixer(HeadMixer):
    """Base of the softmax mixers."""

    row_layout: ClassVar[Mapping[str, RowAxis]] = {
        **{f"projections.{name}": axis for name, axis in Projections.row_layout.items()},
        "output_gate.weight": "q_head",
        "output_gate.bias": "q_head",
    }

    def __init__(self, spec: MixerSpec, shape: MixerShape, settings: AttentionSettings) -> None:
        super().__init__(spec, shape)
        self.settings = settings
        self.projections = Projections(shape, qk_norm=settings.qk_norm)
        self.output_gate = (
            OutputGate(shape.hidden_size, shape.num_heads, shape.head_dim)
            if settings.output_gate
            else None
        )
        self.query_tap = TapPoint()
        self.key_tap = TapPoint()
        self.value_tap = TapPoint()
        self._order_by_size()

    @property
    def reach(self) -> int | None:
        """Distance below which keys are seen; None without limit."""
        return None

    @property
    def sees_only_reach(self) -> bool:
        """Whether `reach` says everything about what a query sees."""
        return True

    @abstractmethod
    def visible(
        self,
        k: Float[Tensor, "b n t e"],
        v: Float[Tensor, "b n t e"],
        context: AttentionContext,
        state: MixerState | None,
    ) -> tuple[Iterable[Block], MixerState | None]:
        """Blocks that cover the new tokens row by row in order, and the next state.

        The state is None if none was given.
        """

    def init_from_teacher(self, teacher_heads: TeacherHeads) -> None:
        """Take the teacher's projections and norms; a gate starts as exactly 1."""
        self.projections.init_from_teacher(teacher_heads)
        if self.output_gate is not None:
            self.output_gate.reset_parameters()

    def forward(
        self, hidden: Float[Tensor, "b t d"], context: MixContext, state: MixerState | None
    ) -> tuple[Float[Tensor, "b t h e"], MixerState | None]:
        """Attention outputs of this mixer's q_heads in mixer order, and the next state."""
        facts = with_facts(context)
        q, k, v = self.projections.project(hidden)
        if self.settings.rope:
            q, k = rotate(q, k, facts.cos, facts.sin)
        if self.settings.log_length_scale is not None:
            q = _scale_queries(q, facts, self.settings.log_length_scale)
        q, k, v = self.query_tap(q), self.key_tap(k), self.value_tap(v)
        q = take_heads(q, self._head_order)
        k, v = take_heads(k, self._group_order), take_heads(v, self._group_order)
        out, new_state = self._attend(q, k, v, facts, state)
        out = take_heads(out, self._mixer_order)
        if self.output_gate is not None:
            out = self.output_gate(out, hidden)
        return out, new_state

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext, state: MixerState | None
    ) -> tuple[Float[Tensor, "b t h e"], MixerState | None]:
        packing = context.packing
        if packing is not None and state is not None:
            raise AssertionError("packed rows never come with a state")
        if packing is not None and self._packs_fast(q, context):
            return self._attend_packed(q, k, v, packing), None
        blocks, new_state = self.visible(k.transpose(1, 2), v.transpose(1, 2), context, state)
        queries = q.transpose(1, 2)
        rows: list[Tensor] = []
        pieces: list[Tensor] = []
        start = 0
        for block in blocks:
            if block.rows.start != start:
                rows.append(_join(pieces, dim=2))
                pieces, start = [], block.rows.start
            pieces.append(self._attend_block(queries, block, context.attn_implementation))
        rows.append(_join(pieces, dim=2))
        return _join(rows, dim=0).transpose(1, 2), new_state

    def _attend_block(self, queries: Tensor, block: Block, implementation: str) -> Tensor:
        outputs: list[Tensor] = []
        for part in self._size_classes:
            q = queries[block.rows, part.heads, block.tokens].unflatten(1, (-1, part.group_size))
            out = attend(
                q,
                block.k[:, part.groups],
                block.v[:, part.groups],
                mask=block.mask,
                causal=block.causal,
                implementation=implementation,
            )
            outputs.append(out.flatten(1, 2))
        return _join(outputs, dim=1)

    def _packs_fast(self, q: Tensor, context: AttentionContext) -> bool:
        """Whether packed rows can go through variable-length attention."""
        usable = context.attn_implementation == "sdpa" and self.sees_only_reach
        return usable and varlen_is_available(q.device, q.dtype, self.shape.head_dim)

    def _attend_packed(self, q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
        rows, columns = q.shape[:2]
        flat_q, flat_k, flat_v = q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1)
        outputs = [
            attend_varlen(
                flat_q[:, part.heads],
                flat_k[:, part.groups],
                flat_v[:, part.groups],
                packing.cu_seqlens,
                packing.longest,
                self.reach,
            )
            for part in self._size_classes
        ]
        return _join(outputs, dim=1).unflatten(0, (rows, columns))

    def _order_by_size(self) -> None:
        """Work out size order: which group and q_head goes where, and the runs of equal size."""
        sizes = [len(group.q_heads) for group in self.shape.groups]
        firsts = [sum(sizes[:i]) for i in range(len(sizes))]
        group_order = sorted(range(len(sizes)), key=lambda i: sizes[i])
        head_order = [firsts[i] + j for i in group_order for j in range(sizes[i])]
        self._group_order = runs_of(group_order)
        self._head_order = runs_of(head_order)
        self._mixer_order = runs_of(sorted(range(len(head_order)), key=head_order.__getitem__))
        classes: list[_SizeClass] = []
        group = head = 0
        for size in sorted(set(sizes)):
            count = sizes.count(size)
            groups, heads = slice(group, group + count), slice(head, head + count * size)
            classes.append(_SizeClass(groups=groups, heads=heads, group_size=size))
            group, head = groups.stop, heads.stop
        self._size_classes = tuple(classes)


def _scale_queries(q: Tensor, context: AttentionContext, base: float) -> Tensor:
    wide = torch.promote_types(q.dtype, torch.float32)

    def scale() -> Tensor:
        return torch.log(context.positions.to(wide) + base) / math.log(base)

    return (q * context.once(("query scale", base, wide), scale)[:, :, None, None]).to(q.dtype)


def _join(parts: list[Tensor], *, dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=dim)
