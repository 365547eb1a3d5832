"""Captures of pairs, made in batches and kept as far as memory allows.

The search for senders looks at every pair once per round. Captures that fit into the given number
of bytes are kept; the others are computed again, with the same result.
"""

from collections.abc import Iterator, Mapping, Sequence

from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.scoring.capture import PairCapture, capture_pairs
from hydrahead.scoring.probes import Pair, batches
from hydrahead.scoring.readout import Readout


class CaptureStore:
    """Hands out the capture of every pair.

    Args:
        model: the teacher.
        readouts: what is run and read for each pair.
        batch_size: pairs per forward.
        keep_bytes: memory for captures that are kept.
    """

    def __init__(
        self,
        model: HydraForCausalLM,
        readouts: Mapping[Pair, Readout],
        *,
        batch_size: int,
        keep_bytes: int,
    ) -> None:
        self._model = model
        self._readouts = readouts
        self._batch_size = batch_size
        self._left = keep_bytes
        self._width = max(len(readout.clean_ids) for readout in readouts.values())
        self._kept: dict[Pair, PairCapture] = {}

    def each(self, pairs: Sequence[Pair]) -> Iterator[tuple[Pair, PairCapture]]:
        """Every pair with its capture: those that were kept first, then the others by batches."""
        for pair in pairs:
            if pair in self._kept:
                yield pair, self._kept[pair]
        missing = [pair for pair in pairs if pair not in self._kept]
        for batch in batches(missing, self._batch_size):
            readouts = [self._readouts[pair] for pair in batch]
            captures = capture_pairs(self._model, readouts, self._width)
            yield from zip(batch, captures, strict=True)
            for pair, capture in zip(batch, captures, strict=True):
                self._keep(pair, capture)

    def drop(self, pair: Pair) -> None:
        """Forget a pair that will not be asked for again."""
        capture = self._kept.pop(pair, None)
        if capture is not None:
            self._left += capture.nbytes

    def _keep(self, pair: Pair, capture: PairCapture) -> None:
        if capture.nbytes <= self._left:
            self._kept[pair] = capture
            self._left -= capture.nbytes
