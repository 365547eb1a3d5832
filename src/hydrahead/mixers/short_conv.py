"""The short causal convolutions on q, k and v of a linear mixer (Gated DeltaNet, arXiv 2412.06464).

They start as the identity, and have no activation, so that a converted head begins with the
teacher's projections: a fresh random convolution failed to converge in conversion (HALO, arXiv
2601.22156).
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hydrahead.kernels.backend import resolve
from hydrahead.mixers.contract import MixerShape

Tails = tuple[Tensor | None, Tensor | None, Tensor | None]
"""The last inputs of the convolutions on q, k and v."""


class ShortConv(nn.Module):
    """One causal depthwise convolution over the channels of some heads.

    Args:
        channels: heads * head_dim; rows of the weight in the order of the heads.
        size: Taps, at least 1.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, size))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The identity: only the newest token's tap is one."""
        self.weight.zero_()
        self.weight[:, -1] = 1

    def init_tail(
        self, batch: int, *, device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "b c past"]:
        """The past before the first token: zeros."""
        channels, size = self.weight.shape
        return torch.zeros(batch, channels, size - 1, device=device, dtype=dtype)

    def forward(
        self,
        x: Float[Tensor, "b t heads e"],
        tail: Float[Tensor, "b c past"] | None,
        *,
        documents: Int[Tensor, "b t"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[Float[Tensor, "b t heads e"], Float[Tensor, "b c past"]]:
        """The convolved row and the next tail; tokens that are not valid come out as zero."""
        kernel = resolve("short_conv", x.device, x.dtype, needs_grad=x.requires_grad)
        out, tail = kernel.chunked(
            x.flatten(2), self.weight, tail=tail, documents=documents, valid=valid
        )
        return out.unflatten(2, x.shape[2:]), tail


class QKVConv(nn.Module):
    """A short convolution each on q, k and v."""

    def __init__(self, shape: MixerShape, size: int) -> None:
        super().__init__()
        self.q = ShortConv(shape.num_heads * shape.head_dim, size)
        self.k = ShortConv(shape.num_groups * shape.head_dim, size)
        self.v = ShortConv(shape.num_groups * shape.head_dim, size)

    def reset_parameters(self) -> None:
        """The identity."""
        for conv in (self.q, self.k, self.v):
            conv.reset_parameters()

    def init_tails(self, batch: int, *, device: torch.device, dtype: torch.dtype) -> Tails:
        """The past before the first token: zeros."""
        q, k, v = (
            conv.init_tail(batch, device=device, dtype=dtype) for conv in (self.q, self.k, self.v)
        )
        return q, k, v

    def forward(
        self,
        q: Float[Tensor, "b t h e"],
        k: Float[Tensor, "b t n e"],
        v: Float[Tensor, "b t n e"],
        tails: Tails,
        *,
        documents: Int[Tensor, "b t"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tails]:
        """The convolved q, k and v, and the next tails; see `ShortConv`."""
        q, q_tail = self.q(q, tails[0], documents=documents, valid=valid)
        k, k_tail = self.k(k, tails[1], documents=documents, valid=valid)
        v, v_tail = self.v(v, tails[2], documents=documents, valid=valid)
        return (q, k, v), (q_tail, k_tail, v_tail)
