"""Documents packed into rows of one length; nothing leaks from one document into the next.

Sources get their share of tokens by always serving the one furthest behind it. Running text is cut
at the end of a row and goes on in the next one (the label of the last position is still the text's
next token); chats and samples stay whole and go to a row with room, the rest of a row being filled
with text or, if nothing fits, with padding. Every piece starts at position 0, and the last token of
a document has no label.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.tasks.vocabulary import require_vocabulary
from hydrahead.training.batch import IGNORE, Batch
from hydrahead.training.data.documents import Document
from hydrahead.training.data.sources import Mixture
from hydrahead.training.data.stream import DocumentStream

_BARREN_LIMIT = 1000


@dataclass(slots=True)
class _Row:
    length: int
    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)

    @property
    def room(self) -> int:
        return self.length - len(self.ids)

    def add(self, document: Document, start: int, count: int) -> None:
        """Append tokens [start, start + count), with the token after each as its label."""
        stop = start + count
        targets = list(document.ids[start + 1 : stop + 1])
        if document.loss_mask is not None:
            mask = document.loss_mask[start + 1 : stop + 1]
            targets = [t if learned else IGNORE for t, learned in zip(targets, mask, strict=True)]
        targets += [IGNORE] * (count - len(targets))
        self.ids += document.ids[start:stop]
        self.labels += targets
        self.positions += range(count)

    def pad(self, pad_id: int) -> None:
        """Fill the rest; padding is a document of its own."""
        self.positions += range(self.room)
        self.labels += [IGNORE] * self.room
        self.ids += [pad_id] * self.room


class PackedBatches:
    """Endless batches from a mixture; a seed gives the same batches, from any saved position.

    Args:
        mixture: From `build_source`.
        batch_size: Rows.
        length: Tokens per row.
        seed: Order of the records.
        vocab_size: Embeddings of the model that reads them; None if any id will do.

    Raises:
        HydraHeadError: Rows that hold nothing to learn, or (when batches are made) an id beyond the
            vocabulary.
    """

    def __init__(
        self,
        mixture: Mixture,
        *,
        batch_size: int,
        length: int,
        seed: int = 0,
        vocab_size: int | None = None,
    ) -> None:
        if length < 2:
            raise HydraHeadError(f"rows of {length} tokens hold nothing to learn", where="length")
        self._batch_size = batch_size
        self._length = length
        self._vocab_size = vocab_size
        unknown_pad = vocab_size is not None and mixture.pad_id >= vocab_size
        self._pad_id = 0 if unknown_pad else mixture.pad_id  # learns nothing, is read by nobody
        total = sum(part.weight for part in mixture.parts)
        self._shares = [part.weight / total for part in mixture.parts]
        self._served = [0] * len(mixture.parts)
        self._streams = [
            DocumentStream(part.source, seed=seed, label=str(index))
            for index, part in enumerate(mixture.parts)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Where the next batch starts: a few numbers per source."""
        streams = [stream.state_dict() for stream in self._streams]
        return {"served": list(self._served), "streams": streams}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on at the batch `state_dict` named."""
        self._served = list(state["served"])
        for stream, saved in zip(self._streams, state["streams"], strict=True):
            stream.load_state_dict(saved)

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end."""
        barren = 0
        while True:
            rows = [self._row() for _ in range(self._batch_size)]
            labels = torch.tensor([row.labels for row in rows])
            barren = 0 if bool((labels != IGNORE).any()) else barren + 1
            if barren > _BARREN_LIMIT:
                mend = "longer rows may keep the answers that were cut off"
                raise HydraHeadError("no row of the data holds anything to learn", mend=mend)
            if barren:
                continue
            require_vocabulary(max(max(row.ids) for row in rows), self._vocab_size)
            yield Batch(
                input_ids=torch.tensor([row.ids for row in rows]),
                labels=labels,
                position_ids=torch.tensor([row.positions for row in rows]),
            )

    def _row(self) -> _Row:
        row = _Row(self._length)
        while row.room >= 2 and self._serve(row):
            pass
        row.pad(self._pad_id)
        return row

    def _serve(self, row: _Row) -> bool:
        """Give the row a piece of the neediest source that has one that fits."""
        total = sum(self._served)
        need = [
            share * total - done for share, done in zip(self._shares, self._served, strict=True)
        ]
        for index in sorted(range(len(need)), key=lambda i: -need[i]):
            stream = self._streams[index]
            document = stream.peek()
            left = len(document.ids) - stream.offset
            count = self._fitting(document, left, row)
            if count:
                row.add(document, stream.offset, count)
                stream.take(left if not document.splittable else count)
                self._served[index] += count
                return True
        return False

    def _fitting(self, document: Document, left: int, row: _Row) -> int:
        """Tokens of the document that go into this row now; 0 if it should wait."""
        if left <= row.room:
            return left
        if document.splittable:
            return row.room
        # A sample longer than any row gets one of its own and loses its end.
        return row.length if row.room == row.length else 0
