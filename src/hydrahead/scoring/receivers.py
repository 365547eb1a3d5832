"""Receivers: how much of the answer passes through a head's output (arXiv 2606.20097, Eq. 10).

The head's output is replaced by its corrupted value and every attention output after it is frozen
to its clean one. Then nothing moves between positions, and the readout rows of one residual stream
per head, run through the remaining norms and MLPs, give exactly what a patched forward would.

Axes: p = 1 + layers * h runs, r readout rows, d hidden size, h q_heads, e head_dim.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.scoring.capture import PairCapture
from hydrahead.scoring.tokenwise import TokenwiseModel


def message(
    capture: PairCapture, layer: int, write: Float[Tensor, "h e d"]
) -> Float[Tensor, "h r d"]:
    """What replacing each head's output by its corrupted value adds to the residual."""
    change = capture.corrupted_heads[layer].to(write) - capture.clean_heads[layer].to(write)
    return torch.einsum("rhe,hed->hrd", change, write)


def receiver_readouts(model: TokenwiseModel, capture: PairCapture) -> Float[Tensor, " p"]:
    """Readout m of the clean run and of every patched run.

    Returns:
        m with nothing patched first, then with each head patched, layer by layer. Taking
        differences within this one computation cancels its rounding.
    """
    stream = capture.embedding[None].to(model.dtype)
    for layer in range(model.num_layers):
        parts = model.layer(layer)
        middle = stream + capture.attention[layer].to(model.dtype)
        patched = middle[:1] + message(capture, layer, parts.write)
        stream = parts.after_attention(torch.cat((middle, patched)))
    return model.span_difference(stream, capture.direction)
