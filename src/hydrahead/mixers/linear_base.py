"""What the linear mixers share: own projections, the output gate, and how a kernel is called.

A linear mixer keeps one state of head_dim x head_dim per group, which all q_heads of the group
read. Its groups are equally large (a whole kv_head each, or a q_head each), so the kernels take
them as they are.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hydrahead.kernels.backend import Kernel, resolve
from hydrahead.mixers.contract import HeadMixer, MixerShape, RowAxis, TeacherHeads
from hydrahead.mixers.output_gate import OutputGate
from hydrahead.mixers.projections import Projections
from hydrahead.mixers.tap_point import TapPoint
from hydrahead.plan.specs.base import MixerSpec


class LinearMixer(HeadMixer):
    """Base of `gated_delta` and `lightning`."""

    row_layout: ClassVar[Mapping[str, RowAxis]] = {
        **{f"projections.{name}": axis for name, axis in Projections.row_layout.items()},
        "output_gate.weight": "q_head",
        "output_gate.bias": "q_head",
    }

    def __init__(
        self, spec: MixerSpec, shape: MixerShape, *, qk_norm: bool, output_gate: bool
    ) -> None:
        super().__init__(spec, shape)
        assert shape.uniform_group_size is not None, "a linear mixer's groups are equally large"
        self.projections = Projections(shape, qk_norm=qk_norm)
        self.output_gate = (
            OutputGate(shape.hidden_size, shape.num_heads, shape.head_dim) if output_gate else None
        )
        self.query_tap = TapPoint()
        self.key_tap = TapPoint()
        self.value_tap = TapPoint()

    def init_from_teacher(self, teacher_heads: TeacherHeads) -> None:
        """Copy the teacher's projections and norms; what is new starts as ever."""
        self.projections.init_from_teacher(teacher_heads)
        self.reset_new_parameters()

    def reset_new_parameters(self) -> None:
        """Set what the teacher has no counterpart of to its deterministic start."""
        if self.output_gate is not None:
            self.output_gate.reset_parameters()

    def gated(
        self, out: Float[Tensor, "b t h e"], hidden: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t h e"]:
        """The outputs behind the output gate, where there is one."""
        return out if self.output_gate is None else self.output_gate(out, hidden)


def run_kernel(
    op: str, *tensors: Tensor, tokens: int, chunk_size: int = 64, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Run `op` on the backend this call is for, by chunks or token by token."""
    like = tensors[0]
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    kernel: Kernel = resolve(op, like.device, like.dtype, needs_grad=needs_grad)
    settings["chunk_size"] = min(chunk_size, kernel.longest_chunk)
    if tokens <= kernel.recurrent_up_to and not needs_grad:
        return kernel.recurrent(*tensors, **settings)
    return kernel.chunked(*tensors, **settings)


def masked(
    x: Float[Tensor, "b t ..."], valid: Bool[Tensor, "b t"] | None
) -> Float[Tensor, "b t ..."]:
    """Zero at tokens that are not valid."""
    if valid is None:
        return x
    return x.masked_fill(~valid.reshape(*valid.shape, *(1,) * (x.ndim - 2)), 0)


def recurrent_dtype(dtype: torch.dtype) -> torch.dtype:
    """States are fp32 whatever the model's dtype; fp64 only in an fp64 model (tests)."""
    return torch.promote_types(dtype, torch.float32)
