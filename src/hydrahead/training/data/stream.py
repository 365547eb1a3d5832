"""The documents of one source, pass after pass, in a shuffled order that can be taken up anywhere.

Records are shuffled in blocks: a block is read, permuted by a generator seeded with (seed, pass,
block) and handed out. The position (pass, first record of the block, index in it, document, offset)
says everything, so a checkpoint holds five numbers and resuming reads one block again.
"""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import generator
from hydrahead.training.data.documents import Document, DocumentSource

BLOCK_RECORDS = 256


class DocumentStream:
    """Documents of one source without end; `peek` shows the next, `take` consumes tokens of it."""

    def __init__(self, source: DocumentSource, *, seed: int, label: str) -> None:
        self._source = source
        self._seed = seed
        self._label = label
        self._state = {"epoch": 0, "block": 0, "record": 0, "document": 0, "offset": 0}
        self._records: Iterator[Any] | None = None
        self._block: list[Any] = []
        self._documents: list[Document] | None = None
        self._barren_passes = 0

    def state_dict(self) -> dict[str, int]:
        """Where the next token comes from."""
        return dict(self._state)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from there."""
        self._state = dict(state)
        self._records, self._block, self._documents = None, [], None

    @property
    def offset(self) -> int:
        """Tokens of the current document that are already consumed."""
        return self._state["offset"]

    def peek(self) -> Document:
        """The current document, whole; its first `offset` tokens are consumed.

        Raises:
            HydraHeadError: A whole pass held no document with two tokens or more.
        """
        state = self._state
        if self._documents is None:
            self._find_record()
        while True:
            assert self._documents is not None
            if state["document"] < len(self._documents):
                document = self._documents[state["document"]]
                if len(document.ids) - state["offset"] >= 2:
                    self._barren_passes = 0
                    return document
                state["document"] += 1
                state["offset"] = 0
                continue
            state["record"] += 1
            state["document"] = 0
            self._find_record()

    def take(self, count: int) -> None:
        """Consume `count` tokens of the current document."""
        document = self.peek()
        self._state["offset"] += count
        if self._state["offset"] >= len(document.ids) - 1:  # a last token alone predicts nothing
            self._state["document"] += 1
            self._state["offset"] = 0

    def _find_record(self) -> None:
        state = self._state
        while state["record"] >= len(self._block):
            if self._block:
                state["block"] += len(self._block)
                state["record"] = 0
            if self._records is None:
                self._records = self._source.records(state["block"])
            self._block = self._shuffled(list(itertools.islice(self._records, BLOCK_RECORDS)))
            if not self._block:
                self._begin_pass()
        self._documents = self._source.encode(self._block[state["record"]])

    def _begin_pass(self) -> None:
        self._barren_passes += (
            1  # a resumed pass may rightly have nothing left, two in a row may not
        )
        if self._barren_passes >= 2:
            where = ", ".join(map(str, self._source.paths)) or None
            mend = "give data with text in it"
            raise HydraHeadError("the data holds no document to learn from", where=where, mend=mend)
        self._state.update(epoch=self._state["epoch"] + 1, block=0, record=0)
        self._records = None

    def _shuffled(self, block: list[Any]) -> list[Any]:
        rng = generator(
            self._seed, "block", self._label, self._state["epoch"], self._state["block"]
        )
        rng.shuffle(block)
        return block
