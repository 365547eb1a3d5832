"""What every mixer shares: its shape, the teacher's tensors it starts from, its state, its forward.

A mixer turns a layer's hidden states into the outputs of some q_heads. It never sees the plan, the
cache or the model: it gets a shape when it is built, a `MixContext` and its own state when it runs.
A state is a value: `forward` returns a new one and leaves the old one as it was, except for a state
made with `capacity`, whose storage is written in place (inference only).

Axis letters in the shapes: b batch, t new tokens, p cached columns, d hidden size, h q_heads of
this mixer in mixer order, n its groups (kv_heads), e head_dim.
"""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.specs.base import MixerSpec

RowAxis = Literal["q_head", "kv_head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerShape:
    """Everything a mixer needs to know of the model around it."""

    groups: tuple[HeadGroup, ...]
    hidden_size: int
    head_dim: int
    num_q_heads: int
    """q_heads of the whole layer; a decay by teacher slot needs it."""
    attention_bias: bool
    """Biases on the q, k and v projections."""
    qk_norm: bool
    """The teacher normalises q and k per head (Qwen3)."""
    norm_eps: float
    input_multiplier: float = 1.0
    """Factor on what q, k and v are projected from (Falcon-H1)."""
    key_multiplier: float = 1.0
    """Factor on k behind its projection."""

    @property
    def num_heads(self) -> int:
        """q_heads of this mixer (h)."""
        return sum(len(group.q_heads) for group in self.groups)

    @property
    def num_groups(self) -> int:
        """Groups of this mixer (n)."""
        return len(self.groups)

    @property
    def q_slots(self) -> tuple[int, ...]:
        """Teacher slot of every q_head, in mixer order."""
        return tuple(q for group in self.groups for q in group.q_heads)

    @property
    def uniform_group_size(self) -> int | None:
        """q_heads per group where all groups agree, else None."""
        sizes = {len(group.q_heads) for group in self.groups}
        return sizes.pop() if len(sizes) == 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherHeads:
    """A teacher layer's attention tensors, cut to one mixer's groups and in mixer order."""

    q_weight: Float[Tensor, "h e d"]
    k_weight: Float[Tensor, "n e d"]
    v_weight: Float[Tensor, "n e d"]
    q_bias: Float[Tensor, "h e"] | None = None
    k_bias: Float[Tensor, "n e"] | None = None
    v_bias: Float[Tensor, "n e"] | None = None
    q_norm_weight: Float[Tensor, " e"] | None = None
    k_norm_weight: Float[Tensor, " e"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MixContext:
    """What one forward pass knows of its tokens; built once, read by every mixer.

    `positions` counts within the document and is clamped at 0 for padding. `past_positions` holds
    the same for the cached columns, -1 where a cached column is padding. `valid` is None when every
    new token is real. `documents` (ids, non-decreasing in a row) is given only for packed rows, and
    never with a cache. `cos` and `sin` are as `projections.rope_tables` gives them.
    """

    positions: Int[Tensor, "b t"]
    cos: Float[Tensor, "b t e"]
    sin: Float[Tensor, "b t e"]
    past_positions: Int[Tensor, "b p"] | None = None
    valid: Bool[Tensor, "b t"] | None = None
    documents: Int[Tensor, "b t"] | None = None
    attn_implementation: str = "sdpa"

    @property
    def past_length(self) -> int:
        """Cached columns before the new tokens (p)."""
        return 0 if self.past_positions is None else self.past_positions.shape[1]


@dataclass(frozen=True, kw_only=True)
class MixerState:
    """What a mixer remembers between forwards: a frozen dataclass of batch-first tensors."""

    can_truncate: ClassVar[bool] = False
    """Whether the newest tokens can be dropped again (softmax yes, recurrent no)."""

    def nbytes(self) -> int:
        """Bytes in use; must equal the plan's cost model (law 7)."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """The tensor fields by name."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def fork(self) -> Self:
        """An independent copy."""
        return self._map(torch.clone)

    def reorder(self, index: Int[Tensor, " rows"]) -> Self:
        """Rows `index` of the batch (beam search, repeat, select); never an alias of this state."""
        return self._map(lambda tensor: tensor.index_select(0, index.to(tensor.device)))

    def to(self, device: torch.device | str) -> Self:
        """The same state on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def truncate(self, length: int) -> Self:
        """The state after only the first `length` tokens."""
        raise NotImplementedError(f"{type(self).__name__} cannot drop tokens it has absorbed")

    def _map(self, function: Callable[[Tensor], Tensor]) -> Self:
        changed = {name: function(tensor) for name, tensor in self.tensors().items()}
        return dataclasses.replace(self, **changed)


class Mixer(nn.Module, ABC):
    """What head mixers and parallel mixers share: a state, and a forward over a layer's input."""

    @abstractmethod
    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> MixerState:
        """An empty state; `capacity` (tokens) allocates its storage once, written in place."""

    @abstractmethod
    def forward(
        self, hidden: Float[Tensor, "b t d"], context: MixContext, state: MixerState | None
    ) -> tuple[Tensor, MixerState | None]:
        """The output, and the next state (None if none was given)."""


class ParallelMixer(Mixer):
    """A mixer with heads and a projection of its own: its output [b t d] is added after W_o."""

    def init_beside_teacher(self) -> None:
        """Start beside a teacher that has no such mixer: its output is zero."""


class HeadMixer(Mixer):
    """Base of every mixer that takes slots. `spec` and `shape` say everything about it."""

    row_layout: ClassVar[Mapping[str, RowAxis]] = {}
    """Parameter name (as in `named_parameters`) -> which heads its leading axis is split into.

    The leading axis of such a parameter is heads * rows, heads in mixer order (q_heads, or groups
    for "kv_head"). A parameter that is not listed is shared by all heads. This is all that is
    needed to cut a twin to other groups, and to permute heads.
    """

    def __init__(self, spec: MixerSpec, shape: MixerShape) -> None:
        super().__init__()
        self.spec = spec
        self.shape = shape

    @abstractmethod
    def init_from_teacher(self, teacher_heads: TeacherHeads) -> None:
        """Set every parameter so that the mixer starts close to the teacher's heads."""

    @abstractmethod
    def forward(
        self, hidden: Float[Tensor, "b t d"], context: MixContext, state: MixerState | None
    ) -> tuple[Float[Tensor, "b t h e"], MixerState | None]:
        """Outputs of the q_heads in mixer order, and the next state (None if none was given)."""
