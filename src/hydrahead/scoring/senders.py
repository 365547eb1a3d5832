"""Senders: which heads tell the receivers where to look (path patching, after arXiv 2606.20097).

A sender's output is replaced by its corrupted value from the first changed token on. The change
travels through norms and MLPs only, up to the *queries* of the current receivers at the readout
rows; these attend with the patched queries over clean keys and values, and what their outputs
change is what is read. Every other attention output stays clean, and the sender's own direct way
to the logits is cut. Receivers stay live for one another: a message reaches the logits through a
chain of current receivers too, which is what makes the search for senders of senders
(`sender_search.py`) go on beyond its first round.

Only queries at the readout rows change, and residuals meet other positions in attention alone; so
the readout rows suffice here as well. Two streams per sender: `sent` carries the sender's message
and all that receivers make of it, and forms the queries; `heard` carries the receivers' part
alone, and is read.

Axes: p = 1 + senders runs, r readout rows, d hidden size, h q_heads, e head_dim.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hydrahead.scoring.capture import PairCapture
from hydrahead.scoring.receivers import message
from hydrahead.scoring.row_attention import row_outputs, visible
from hydrahead.scoring.tokenwise import LayerParts, TokenwiseModel


def num_sending_layers(receivers: Bool[Tensor, "layers h"]) -> int:
    """Layers that lie below some receiver; heads of later layers can send nothing."""
    layers = receivers.any(dim=1).nonzero().flatten()
    return int(layers[-1]) if len(layers) else 0


def sender_readouts(
    model: TokenwiseModel, capture: PairCapture, receivers: Bool[Tensor, "layers h"]
) -> Float[Tensor, " p"]:
    """Readout m of the clean run and of every run with one sender patched.

    Args:
        receivers: the current receivers.

    Returns:
        m with nothing sent first, then with each head of the first `num_sending_layers` layers as
        the sender, layer by layer.
    """
    last = num_sending_layers(receivers)
    sent = heard = capture.embedding[None].to(model.dtype)
    for layer in range(model.num_layers):
        parts = model.layer(layer)
        frozen = capture.attention[layer].to(model.dtype)
        if layer <= last:
            slots = receivers[layer].nonzero().flatten().tolist()
            reply = _replies(parts, capture, layer, slots, sent) if slots else 0.0
            sent, heard = sent + frozen + reply, heard + frozen + reply
        else:
            heard = heard + frozen
        if layer < last:
            sent = torch.cat((sent, sent[:1] + message(capture, layer, parts.write)))
            heard = torch.cat((heard, heard[:1].expand(model.num_q_heads, -1, -1)))
            sent = parts.after_attention(sent)
        heard = parts.after_attention(heard)
    return model.span_difference(heard, capture.direction)


def _replies(
    parts: LayerParts,
    capture: PairCapture,
    layer: int,
    slots: list[int],
    sent: Float[Tensor, "p r d"],
) -> Float[Tensor, "p r d"]:
    """What the receivers `slots` of a layer add to the residual when they are asked by `sent`."""
    queries = parts.queries(sent, capture.cos, capture.sin)
    keys, values = capture.keys[layer], capture.values[layer]
    seen = visible(capture.rows, keys.shape[0], parts.reach)
    group_size = queries.shape[2] // keys.shape[1]
    reply = torch.zeros_like(sent)
    for slot in slots:
        group = slot // group_size
        output = row_outputs(queries[:, :, slot], keys[:, group], values[:, group], seen)
        # Run 0 is the clean run: its output, computed the same way, cancels the rounding.
        reply += (output - output[:1]) @ parts.write[slot]
    return reply
