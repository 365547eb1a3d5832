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


class ShortConv(nn.Module):
    """The taps of one causal depthwise convolution over the channels of some heads.

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


class QKVConv(nn.Module):
    """A short convolution each on q, k and v, run as one over all their channels."""

    def __init__(self, shape: MixerShape, size: int) -> None:
        super().__init__()
        self.q = ShortConv(shape.num_heads * shape.head_dim, size)
        self.k = ShortConv(shape.num_groups * shape.head_dim, size)
        self.v = ShortConv(shape.num_groups * shape.head_dim, size)

    def reset_parameters(self) -> None:
        """The identity."""
        for conv in (self.q, self.k, self.v):
            conv.reset_parameters()

    def init_tail(
        self, batch: int, *, device: torch.device, dtype: torch.dtype
    ) -> Float[Tensor, "b c past"]:
        """The past before the first token: zeros."""
        channels = sum(conv.weight.shape[0] for conv in (self.q, self.k, self.v))
        past = self.q.weight.shape[1] - 1
        return torch.zeros(batch, channels, past, device=device, dtype=dtype)

    def forward(
        self,
        q: Float[Tensor, "b t h e"],
        k: Float[Tensor, "b t n e"],
        v: Float[Tensor, "b t n e"],
        tail: Float[Tensor, "b c past"] | None,
        *,
        documents: Int[Tensor, "b t"] | None = None,
        valid: Bool[Tensor, "b t"] | None = None,
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Float[Tensor, "b c past"]]:
        """The convolved q, k and v, and the next tail; tokens that are not valid come out zero."""
        kernel = resolve("short_conv", q.device, q.dtype, needs_grad=q.requires_grad)
        heads = torch.cat((q, k, v), dim=2)
        weight = torch.cat((self.q.weight, self.k.weight, self.v.weight))
        out, tail = kernel.chunked(
            heads.flatten(2), weight, tail=tail, documents=documents, valid=valid
        )
        q, k, v = out.unflatten(2, heads.shape[2:]).split([x.shape[2] for x in (q, k, v)], dim=2)
        return (q, k, v), tail
