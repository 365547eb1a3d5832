"""Short causal depthwise convolution in plain torch, with a carried tail.

    y_t[c] = bias[c] + sum_{j=0}^{size-1} weight[c, size-1-j] * x_{t-j}[c]

The last tap meets the newest token, so weight = (0, ..., 0, 1) is the identity. The tail holds the
last `size - 1` inputs before the row. There is no activation: a mixer that wants one applies it.

A sum of shifted rows: for 2 - 4 taps as fast on a CPU as torch's grouped convolution, and a few
element-wise steps on a GPU. Sums run in fp32 (fp64 for fp64 inputs).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hydrahead.kernels.chunks import compute_dtype
from hydrahead.kernels.kernel import Kernel


def short_conv(
    x: Float[Tensor, "b t c"],
    weight: Float[Tensor, "c size"],
    *,
    bias: Float[Tensor, " c"] | None = None,
    tail: Float[Tensor, "b c size-1"] | None = None,
    documents: Int[Tensor, "b t"] | None = None,
    valid: Bool[Tensor, "b t"] | None = None,
) -> tuple[Float[Tensor, "b t c"], Float[Tensor, "b c size-1"]]:
    """Convolve each channel with its own taps over the past.

    Args:
        x: Inputs; what stands at tokens that are not valid is not looked at.
        weight: Taps per channel, oldest first.
        bias: Added to every channel; None is none.
        tail: The last `size - 1` inputs before this row, oldest first; zeros if None.
        documents: Ids, non-decreasing along a row: a token sees only its own document, and the tail
            belongs to the first one. None if every row is one document.
        valid: Which tokens are real; the others are skipped, as if the row were written without
            them. Their outputs are zero. None if all are real.

    Returns:
        Outputs in x's dtype, and the last `size - 1` valid inputs (x's dtype), the tail of the next
        row.
    """
    size = weight.shape[1]
    past = size - 1
    if tail is None:
        tail = x.new_zeros(x.shape[0], x.shape[2], past)
    if x.shape[1] == 1 and documents is None and valid is None:
        return _one_token(x, weight, bias, tail)
    row = torch.cat((tail.to(x.dtype).mT, x), dim=1)
    ids = None
    if documents is not None:
        ids = torch.cat((documents[:, :1].expand(-1, past), documents), dim=1)
    if valid is None:
        out = _shifted_sum(row, weight, bias, ids)
        return out, _last(row, past)
    # Move what is not valid to the front: the tail and the valid tokens then follow each other.
    kept = torch.cat((valid.new_ones(valid.shape[0], past), valid), dim=1)
    order = kept.to(torch.int8).argsort(dim=1, stable=True)
    back = order.argsort(dim=1)
    row = _take(row.masked_fill(~kept.unsqueeze(-1), 0), order)
    ids = None if ids is None else ids.gather(1, order)
    # The tail stands before every valid token, so none of them is among the first `past` places.
    out = F.pad(_shifted_sum(row, weight, bias, ids), (0, 0, past, 0))
    out = _take(out, back)[:, past:]
    return out.masked_fill(~valid.unsqueeze(-1), 0), _last(row, past)


def _one_token(
    x: Float[Tensor, "b one c"],
    weight: Float[Tensor, "c size"],
    bias: Float[Tensor, " c"] | None,
    tail: Float[Tensor, "b c past"],
) -> tuple[Float[Tensor, "b one c"], Float[Tensor, "b c past"]]:
    """The same for a single token, in two tensor calls: decoding waits for launches."""
    row = torch.cat((tail.to(x.dtype), x.mT), dim=2)
    # A product per channel: it sums in fp32 whatever the dtype.
    taps, rows = weight.to(x.dtype).unsqueeze(-1), row.transpose(0, 1)
    if bias is None:
        out = torch.bmm(rows, taps)
    else:
        out = torch.baddbmm(bias.to(x.dtype)[:, None, None], rows, taps)
    return out.permute(1, 2, 0), row[:, :, 1:]


def _shifted_sum(
    row: Float[Tensor, "b s c"],
    weight: Float[Tensor, "c size"],
    bias: Float[Tensor, " c"] | None,
    ids: Int[Tensor, "b s"] | None,
) -> Float[Tensor, "b t c"]:
    """The convolution at every place of `row` but the first size - 1."""
    size = weight.shape[1]
    tokens = row.shape[1] - size + 1
    dtype = compute_dtype(row)
    wide, taps = row.to(dtype), weight.to(dtype)
    total = wide[:, size - 1 :] * taps[:, -1]
    for back in range(1, size):
        start = size - 1 - back
        shifted = wide[:, start : start + tokens] * taps[:, start]
        if ids is not None:
            same = ids[:, start : start + tokens] == ids[:, size - 1 :]
            shifted = shifted * same.unsqueeze(-1)
        total = total + shifted
    return (total if bias is None else total + bias.to(dtype)).to(row.dtype)


def _last(row: Float[Tensor, "b s c"], past: int) -> Float[Tensor, "b c past"]:
    return row[:, row.shape[1] - past :].mT.contiguous()


def _take(x: Tensor, order: Int[Tensor, "b s"]) -> Tensor:
    return x.gather(1, order.unsqueeze(-1).expand(-1, -1, x.shape[-1]))


KERNEL = Kernel(op="short_conv", name="reference", chunked=short_conv, recurrent=short_conv)
