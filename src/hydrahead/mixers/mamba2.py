"""Mamba-2 heads that stand beside a layer's attention (arXiv 2405.21060; Falcon-H1, 2507.22448).

    z, x, B, C, dt' = m * W_in (m_in h)                 m: a factor per chunk (muP)
    x, B, C <- SiLU(causal convolution with bias)
    S_t = exp(dt_t A) S_{t-1} + dt_t B_t x_t^T          y_t = S_t^T C_t + D x_t
    out = m_out * W_out(norm(y, z))                     norm: y SiLU(z), with a grouped RMSNorm
                                                        after the gate, before it, or none

The state is stored [heads, N, P], the transpose of the paper's, which is how the kernels have it.

Padding is neutral wherever it stands: it is skipped by the convolution, and writes and ages
nothing. (transformers' own class gives padding the projection's bias instead, if there is one.)
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hydrahead.kernels.backend import resolve
from hydrahead.mixers.contract import MixContext, MixerShape, MixerState, ParallelMixer
from hydrahead.mixers.linear_base import masked, recurrent_dtype, run_kernel
from hydrahead.mixers.state_gates import StateGates
from hydrahead.plan.specs.mamba2 import Mamba2Spec


@dataclass(frozen=True, kw_only=True)
class Mamba2State(MixerState):
    """One matrix per head in fp32, and the convolution's last inputs in the model's dtype."""

    recurrent: Float[Tensor, "b heads n p"]
    conv: Float[Tensor, "b c past"] | None


class Mamba2Mixer(ParallelMixer):
    """Mamba-2 heads with projections of their own; see the module's text."""

    def __init__(self, spec: Mamba2Spec, shape: MixerShape) -> None:
        super().__init__()
        self.spec = spec
        self.shape = shape
        projected = spec.width + spec.conv_channels + spec.heads
        self.in_proj = nn.Linear(shape.hidden_size, projected, bias=spec.input_bias)
        self.conv = ScanConv(spec.conv_channels, spec.conv_size, bias=spec.conv_bias)
        self.gates = StateGates(spec.heads, dt_min=spec.dt_min, dt_max=spec.dt_max)
        self.norm = (
            None
            if spec.norm == "none"
            else GroupedNorm(spec.width, groups=spec.groups, eps=shape.norm_eps)
        )
        self.out_proj = nn.Linear(spec.width, shape.hidden_size, bias=spec.output_bias)
        # Neither a parameter nor a buffer: no state dict has it, and a meta device cannot lose it.
        self._factors: dict[tuple[torch.device, torch.dtype], Float[Tensor, " projected"]] = {}

    @torch.no_grad()
    def init_beside_teacher(self) -> None:
        """An output of zero; the rest starts as ever."""
        self.out_proj.weight.zero_()
        if self.out_proj.bias is not None:
            self.out_proj.bias.zero_()

    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> Mamba2State:
        """Zeros. The size does not depend on the context, so `capacity` changes nothing."""
        spec = self.spec
        size = (batch, spec.heads, spec.state_size, spec.head_dim)
        recurrent = torch.zeros(size, device=device, dtype=recurrent_dtype(dtype))
        if spec.conv_size == 1:
            return Mamba2State(recurrent=recurrent, conv=None)
        tail = (batch, spec.conv_channels, spec.conv_size - 1)
        conv = torch.zeros(tail, device=device, dtype=dtype)
        return Mamba2State(recurrent=recurrent, conv=conv)

    def forward(
        self, hidden: Float[Tensor, "b t d"], context: MixContext, state: MixerState | None
    ) -> tuple[Float[Tensor, "b t d"], Mamba2State | None]:
        """What is added to the layer's attention output, and the next state."""
        assert state is None or isinstance(state, Mamba2State)
        spec = self.spec
        z, mixed, dt = self._project(hidden)
        mixed, tail = self.conv(
            mixed,
            None if state is None else state.conv,
            documents=context.documents,
            valid=context.valid,
        )
        shared = spec.groups * spec.state_size
        x, b, c = mixed.split((spec.width, shared, shared), dim=-1)
        x = x.unflatten(-1, (spec.heads, spec.head_dim))
        step, log_decay = self.gates(dt)
        out, recurrent = run_kernel(
            "ssd",
            c.unflatten(-1, (spec.groups, -1)),
            b.unflatten(-1, (spec.groups, -1)),
            masked((x * step.unsqueeze(-1)).to(x.dtype), context.valid),
            masked(log_decay, context.valid),
            tokens=hidden.shape[1],
            scale=1.0,
            initial_state=None if state is None else state.recurrent,
            documents=context.documents,
            chunk_size=spec.chunk_size,
        )
        gated = self._gated(self.gates.skip(out, x).flatten(2), z)
        result = self.out_proj(gated.to(hidden.dtype))
        if spec.output_multiplier != 1.0:
            result = result * spec.output_multiplier
        if state is None:
            return result, None
        return result, Mamba2State(recurrent=recurrent, conv=None if state.conv is None else tail)

    def _project(
        self, hidden: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b t w"], Float[Tensor, "b t c"], Float[Tensor, "b t h"]]:
        spec = self.spec
        if spec.input_multiplier != 1.0:
            hidden = hidden * spec.input_multiplier
        projected = self.in_proj(hidden)
        if any(factor != 1.0 for factor, _ in spec.chunk_multipliers):
            projected = projected * self._chunk_factors(projected)
        z, mixed, dt = projected.split((spec.width, spec.conv_channels, spec.heads), dim=-1)
        return z, mixed, dt

    def _chunk_factors(self, like: Tensor) -> Float[Tensor, " projected"]:
        key = like.device, like.dtype
        if key not in self._factors:
            with torch.inference_mode(False):
                pieces = [
                    torch.full((width,), factor, device=like.device, dtype=like.dtype)
                    for factor, width in self.spec.chunk_multipliers
                ]
                self._factors[key] = torch.cat(pieces)
        return self._factors[key]

    def _gated(self, y: Float[Tensor, "b t w"], z: Float[Tensor, "b t w"]) -> Tensor:
        """Y behind the gate and the norm, in y's wide dtype."""
        gate = F.silu(z.to(y.dtype))
        if self.norm is None:
            return y * gate
        return self.norm(y) * gate if self.spec.norm == "before_gate" else self.norm(y * gate)


class ScanConv(nn.Module):
    """A causal depthwise convolution with SiLU; it starts as the identity without bias.

    Its weight is [channels, 1, taps], as checkpoints have it.
    """

    def __init__(self, channels: int, size: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, size))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Only the newest token's tap is one."""
        self.weight.zero_()
        self.weight[..., -1] = 1
        if self.bias is not None:
            self.bias.zero_()

    def forward(
        self,
        x: Float[Tensor, "b t c"],
        tail: Float[Tensor, "b c past"] | None,
        *,
        documents: Int[Tensor, "b t"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b c past"]]:
        """The row behind convolution and SiLU, and the next tail; zero where not valid."""
        kernel = resolve("short_conv", x.device, x.dtype, needs_grad=x.requires_grad)
        out, tail = kernel.chunked(
            x,
            self.weight.squeeze(1),
            bias=self.bias,
            tail=tail,
            documents=documents,
            valid=valid,
        )
        return masked(F.silu(out), valid), tail


class GroupedNorm(nn.Module):
    """RMSNorm group by group with a weight per channel; all of it in fp32 (Falcon-H1, Mamba-2)."""

    def __init__(self, width: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.groups = groups
        self.eps = eps

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A weight of ones."""
        self.weight.fill_(1.0)

    def forward(self, y: Float[Tensor, "b t w"]) -> Float[Tensor, "b t w"]:
        """`y` at mean square one in every group, times the weight."""
        grouped = y.unflatten(-1, (self.groups, -1))
        grouped = F.rms_norm(grouped, grouped.shape[-1:], eps=self.eps)
        return grouped.flatten(-2) * self.weight.to(y.dtype)
