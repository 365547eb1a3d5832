"""One forward per run and pair, of which the readout rows and the clean keys and values are kept.

Pairs are batched by padding on the right, all of them to one width. A causal model never looks
there, so no mask is needed; no pair depends on the batch it is in (rope scalings that look at the
length see one length); and the clean and the corrupted batch have the same shapes: positions the
change cannot reach come out bit for bit the same, and heads that do nothing score exactly zero.

Axes: r readout rows, s tokens, d hidden size, h q_heads, n kv_heads, e head_dim.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import record
from hydrahead.scoring.readout import Readout, span_direction
from hydrahead.scoring.tokenwise import TokenwiseModel

PADDING_ID = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PairCapture:
    """What the patched runs of one pair are computed from."""

    rows: Int[Tensor, " r"]
    """Positions of the readout rows."""
    cos: Float[Tensor, "r e"]
    sin: Float[Tensor, "r e"]
    direction: Float[Tensor, "r d"]
    """What the final normalised residual is read with (`readout.span_direction`)."""
    embedding: Float[Tensor, "r d"]
    """Clean residual before the first layer."""
    attention: tuple[Float[Tensor, "r d"], ...]
    """Clean attention output (after W_o) of every layer."""
    clean_heads: tuple[Float[Tensor, "r h e"], ...]
    corrupted_heads: tuple[Float[Tensor, "r h e"], ...]
    queries: tuple[Float[Tensor, "r h e"], ...]
    """Clean queries of every layer."""
    keys: tuple[Float[Tensor, "s n e"], ...]
    values: tuple[Float[Tensor, "s n e"], ...]
    """Clean keys and values of every layer, all positions."""
    clean: float
    """m(x)"""
    corrupted: float
    """m(x')"""

    @property
    def nbytes(self) -> int:
        """Memory it holds."""
        lists = (
            self.attention,
            self.clean_heads,
            self.corrupted_heads,
            self.queries,
            self.keys,
            self.values,
        )
        return sum(t.numel() * t.element_size() for tensors in lists for t in tensors)


def capture_pairs(
    model: HydraForCausalLM, readouts: Sequence[Readout], width: int
) -> list[PairCapture]:
    """Run clean and corrupted tokens, padded to `width`, and keep what patching needs."""
    device = model.lm_head.weight.device
    tokenwise = TokenwiseModel(model)
    rows = [torch.tensor(readout.rows, device=device) for readout in readouts]
    clean = run_and_keep(
        model,
        [readout.clean_ids for readout in readouts],
        rows,
        width,
        row_sites=("attention_output", "heads", "query"),
        full_sites=("key", "value"),
        ends=True,
    )
    corrupted = run_and_keep(
        model,
        [readout.corrupted_ids for readout in readouts],
        rows,
        width,
        row_sites=("heads",),
        ends=True,
    )
    captures = []
    for number, readout in enumerate(readouts):
        cos, sin = tokenwise.rotation(rows[number], width)
        direction = span_direction(readout, model.lm_head.weight)
        ours, other = clean[number], corrupted[number]
        captures.append(
            PairCapture(
                rows=rows[number],
                cos=cos,
                sin=sin,
                direction=direction,
                embedding=ours["residual_in"][0],
                attention=ours["attention_output"],
                clean_heads=ours["heads"],
                corrupted_heads=other["heads"],
                queries=ours["query"],
                keys=ours["key"],
                values=ours["value"],
                clean=_readout(tokenwise, ours, direction),
                corrupted=_readout(tokenwise, other, direction),
            )
        )
    return captures


Kept = dict[str, tuple[Tensor, ...]]
"""Site -> one tensor per recorded layer, of one row of the batch."""


@torch.no_grad()
def run_and_keep(
    model: HydraForCausalLM,
    sequences: Sequence[Sequence[int]],
    rows: Sequence[Int[Tensor, " _"]],
    width: int,
    *,
    row_sites: Sequence[str] = (),
    full_sites: Sequence[str] = (),
    ends: bool = False,
) -> list[Kept]:
    """One forward over sequences of any lengths.

    Args:
        sequences: token ids, padded on the right here.
        rows: positions kept at `row_sites`, per sequence.
        width: tokens to pad to.
        full_sites: sites kept at every position of the sequence.
        ends: keep the rows of the first layer's "residual_in" and the last layer's "residual_out"
            as well.

    Returns:
        For every sequence the tensors of every layer by site; each of the two ends is one tensor.
    """
    lengths = [len(sequence) for sequence in sequences]
    padded = [list(ids) + [PADDING_ID] * (width - len(ids)) for ids in sequences]
    last = len(model.model.layers) - 1
    columns = torch.stack([_stretched(row, max(map(len, rows))) for row in rows])
    with ExitStack() as stack:
        few = stack.enter_context(record(model, row_sites, positions=columns))
        full = stack.enter_context(record(model, full_sites))
        first = final = None
        if ends:
            first = stack.enter_context(record(model, ["residual_in"], [0], columns))
            final = stack.enter_context(record(model, ["residual_out"], [last], columns))
        model.model(
            input_ids=torch.tensor(padded, device=model.lm_head.weight.device), use_cache=False
        )
    layers = range(last + 1)
    kept: list[Kept] = []
    for number, length in enumerate(lengths):
        count = len(rows[number])
        tensors = {site: tuple(few[site, i][number, :count] for i in layers) for site in row_sites}
        # Copies, so that a kept row does not keep the whole batch in memory.
        tensors |= {
            site: tuple(full[site, i][number, :length].clone() for i in layers)
            for site in full_sites
        }
        if first is not None and final is not None:
            tensors["residual_in"] = (first["residual_in", 0][number, :count],)
            tensors["residual_out"] = (final["residual_out", last][number, :count],)
        kept.append(tensors)
    return kept


def _stretched(rows: Int[Tensor, " r"], count: int) -> Int[Tensor, " count"]:
    """The rows, the last one repeated up to `count`."""
    return torch.cat((rows, rows[-1:].expand(count - len(rows))))


def _readout(tokenwise: TokenwiseModel, kept: Kept, direction: Tensor) -> float:
    (final,) = kept["residual_out"]
    return float(tokenwise.span_difference(final[None].to(tokenwise.dtype), direction))
