"""A document is a run of tokens that is read by itself; a source is a place documents come from."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.tasks.codec import codec_from_tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """Tokens of one document and what of it is learned."""

    ids: Sequence[int]
    loss_mask: Sequence[bool] | None = None
    """`loss_mask[i]`: token i is a target, predicted at position i - 1. None: all but the first."""
    splittable: bool = True
    """Running text may be cut at a row's end and go on in the next; a chat or a sample may not."""


class DocumentSource(ABC):
    """Records in a fixed order, and how a record becomes documents.

    Records are cheap to list and skip (lines, pieces of text, numbers); tokens are made only when
    needed.
    """

    paths: tuple[Path, ...] = ()
    """Local files or folders that are read, for the artefact's parents."""

    @abstractmethod
    def records(self, start: int) -> Iterator[Any]:
        """One pass over the records, from number `start`; generated sources never end."""

    @abstractmethod
    def encode(self, record: Any) -> list[Document]:
        """The documents of one record."""


class TextEncoder:
    """Text to a document, with the tokens the tokenizer puts around texts.

    Args:
        tokenizer: A tokenizer of transformers.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._start = tuple(codec_from_tokenizer(tokenizer).start_ids)
        end = tokenizer.eos_token_id
        self._end = () if end is None else (int(end),)

    def document(self, text: str, *, is_start: bool = True, is_end: bool = True) -> Document:
        """A document of running text; a piece from a text's middle gets no start or end token."""
        ids = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        start = self._start if is_start else ()
        end = self._end if is_end else ()
        return Document(ids=[*start, *ids, *end])


def pad_id_of(tokenizer: Any) -> int:
    """The id that fills the end of a row; never a target, so any id does."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def no_text(where: str | Path) -> HydraHeadError:
    """The error for a source without a single document."""
    return HydraHeadError("there is no text in it", where=where, mend="give data with text in it")
