"""Heads that run the gated delta rule (arXiv 2412.06464; in HydraHead, arXiv 2606.20097).

    q, k, v = W x -> short convolution (starts as identity) -> q, k: qk-norm, RoPE, L2 norm
    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T        o_t = S_t^T q_t

The qk-norm is the teacher's. The convolution sees q, k and v as the projections give them: after
the rotation it would mix positions of different phase. RoPE keeps the L2 norm, so their order does
not matter. The scale is 1: with unit keys and queries a stored value is read back at its own size
(fusion normalises the output besides, by default).

Padding is neutral wherever it stands: it is skipped by the convolution, and writes and ages
nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hydrahead.mixers.contract import MixContext, MixerShape, MixerState, RowAxis
from hydrahead.mixers.gates import DeltaGates
from hydrahead.mixers.linear_base import LinearMixer, masked, recurrent_dtype, run_kernel
from hydrahead.mixers.projections import rotate
from hydrahead.mixers.short_conv import QKVConv
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec


@dataclass(frozen=True, kw_only=True)
class GatedDeltaState(MixerState):
    """One matrix per group in fp32, and the convolutions' last inputs in the model's dtype."""

    recurrent: Float[Tensor, "b n e e"]
    conv: Float[Tensor, "b c past"] | None = None
    """Channels of q, then k, then v."""


class GatedDeltaMixer(LinearMixer):
    """The gated delta rule on some heads; see the module's text."""

    row_layout: ClassVar[Mapping[str, RowAxis]] = {
        **LinearMixer.row_layout,
        "conv.q.weight": "q_head",
        "conv.k.weight": "kv_head",
        "conv.v.weight": "kv_head",
        "gates.A_log": "kv_head",
        "gates.dt_bias": "kv_head",
        "gates.decay_weight": "kv_head",
        "gates.beta_weight": "kv_head",
        "gates.beta_bias": "kv_head",
    }

    spec: GatedDeltaSpec

    def __init__(self, spec: GatedDeltaSpec, shape: MixerShape) -> None:
        super().__init__(spec, shape, qk_norm=spec.qk_norm, output_gate=spec.output_gate)
        self.gates = DeltaGates(shape, negative_eigenvalues=spec.negative_eigenvalues)
        self.conv = QKVConv(shape, spec.conv_size) if spec.conv_size else None

    def reset_new_parameters(self) -> None:
        """Gates, convolutions and output gate as they start; see `mixers/gates.py`."""
        super().reset_new_parameters()
        self.gates.reset_parameters()
        if self.conv is not None:
            self.conv.reset_parameters()

    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> GatedDeltaState:
        """Zeros. The size does not depend on the context, so `capacity` changes nothing."""
        groups, width = self.shape.num_groups, self.shape.head_dim
        recurrent = torch.zeros(
            batch, groups, width, width, device=device, dtype=recurrent_dtype(dtype)
        )
        if self.conv is None:
            return GatedDeltaState(recurrent=recurrent)
        tail = self.conv.init_tail(batch, device=device, dtype=dtype)
        return GatedDeltaState(recurrent=recurrent, conv=tail)

    def forward(
        self, hidden: Float[Tensor, "b t d"], context: MixContext, state: MixerState | None
    ) -> tuple[Float[Tensor, "b t h e"], GatedDeltaState | None]:
        """See `HeadMixer.forward`."""
        assert state is None or isinstance(state, GatedDeltaState)
        q, k, v = self.projections.project_raw(hidden)
        tail = None if state is None else state.conv
        if self.conv is not None:
            (q, k, v), tail = self.conv(
                q, k, v, tail, documents=context.documents, valid=context.valid
            )
        q, k = self.projections.normalise(q, k)
        if self.spec.rope:
            q, k = rotate(q, k, context.cos, context.sin)
        q, k, v = self.query_tap(q), self.key_tap(k), self.value_tap(v)
        log_decay, beta = self.gates(hidden)
        out, recurrent = run_kernel(
            "gated_delta",
            rms_one(q),
            masked(rms_one(k) * self.shape.head_dim**-0.5, context.valid),
            masked(v, context.valid),
            masked(log_decay, context.valid),
            masked(beta, context.valid),
            tokens=hidden.shape[1],
            scale=self.shape.head_dim**-0.5,
            initial_state=None if state is None else state.recurrent,
            documents=context.documents,
            chunk_size=self.spec.chunk_size,
        )
        out = self.gated(out, hidden)
        if state is None:
            return out, None
        return out, GatedDeltaState(recurrent=recurrent, conv=tail)


def rms_one(x: Float[Tensor, "*rest e"], eps: float = 1e-6) -> Float[Tensor, "*rest e"]:
    """`x` at root mean square 1, computed in fp32; zero stays zero and has a finite gradient.

    That is the L2 norm but for the scale sqrt(e), and torch has it as one launch. `eps` is added to
    the sum of squares.
    """
    return F.rms_norm(x, x.shape[-1:], eps=eps / x.shape[-1])
