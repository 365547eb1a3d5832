"""Heads that run linear attention with a fixed decay (arXiv 2401.04658; HALO, arXiv 2601.22156).

    q, k, v = W x -> q, k: the teacher's qk-norm -> RoPE
    S_t = a S_{t-1} + k_t v_t^T        o_t = head_dim^-0.5 * S_t^T q_t        a = exp(-2^(-8 h / H))

As in HALO's converted models there is no feature map, no convolution and no learned decay: q and k
are the teacher's, at the teacher's softmax scale. h = 1 ... H counts the teacher's q_head slots; a
group of several q_heads has one state and so one decay, that of the mean of its slots. The output's
size grows with the memory, which fusion takes out (`normalise_output`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.mixers.contract import MixContext, MixerShape, MixerState
from hydrahead.mixers.linear_base import LinearMixer, recurrent_dtype, run_kernel
from hydrahead.mixers.projections import rotate
from hydrahead.plan.specs.lightning import LightningSpec


@dataclass(frozen=True, kw_only=True)
class LightningState(MixerState):
    """One matrix per group in fp32."""

    recurrent: Float[Tensor, "b n e e"]


class LightningMixer(LinearMixer):
    """Fixed-decay linear attention on some heads; see the module's text."""

    spec: LightningSpec

    def __init__(self, spec: LightningSpec, shape: MixerShape) -> None:
        super().__init__(spec, shape, qk_norm=spec.qk_norm, output_gate=spec.output_gate)
        # Neither a parameter nor a buffer: it must survive `.to(bfloat16)` and meta-device loading.
        self._log_decays = group_log_decays(shape)
        self._by_device: dict[torch.device, Float[Tensor, " n"]] = {}

    def log_decay(self, device: torch.device) -> Float[Tensor, " n"]:
        """Log of each group's decay in fp32."""
        if device not in self._by_device:
            with torch.inference_mode(False):
                decays = torch.tensor(self._log_decays, device=device, dtype=torch.float32)
            self._by_device[device] = decays
        return self._by_device[device]

    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> LightningState:
        """Zeros. The size does not depend on the context, so `capacity` changes nothing."""
        groups, width = self.shape.num_groups, self.shape.head_dim
        size = (batch, groups, width, width)
        return LightningState(
            recurrent=torch.zeros(size, device=device, dtype=recurrent_dtype(dtype))
        )

    def forward(
        self, hidden: Float[Tensor, "b t d"], context: MixContext, state: MixerState | None
    ) -> tuple[Float[Tensor, "b t h e"], LightningState | None]:
        """See `HeadMixer.forward`."""
        assert state is None or isinstance(state, LightningState)
        q, k, v = self.projections.project(hidden)
        if self.spec.rope:
            q, k = rotate(q, k, context.cos, context.sin)
        q, k, v = self.query_tap(q), self.key_tap(k), self.value_tap(v)
        out, recurrent = run_kernel(
            "lightning",
            q,
            k,
            v,
            self.log_decay(hidden.device),
            tokens=hidden.shape[1],
            scale=self.shape.head_dim**-0.5,
            initial_state=None if state is None else state.recurrent,
            documents=context.documents,
            valid=context.valid,
        )
        out = self.gated(out, hidden)
        return out, None if state is None else LightningState(recurrent=recurrent)


def group_log_decays(shape: MixerShape) -> list[float]:
    """-2^(-8 h / H) of every group, with h the mean of its slots, counted from 1."""
    slots = [sum(group.q_heads) / len(group.q_heads) + 1 for group in shape.groups]
    return [-(2.0 ** (-8.0 * slot / shape.num_q_heads)) for slot in slots]
