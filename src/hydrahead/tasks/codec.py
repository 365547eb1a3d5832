"""Text to token ids and back, and no more of a tokenizer than the tasks need.

Samples are put together from segments that are encoded alone, so that spans of tokens are exact. A
codec therefore adds no special tokens, and a segment's ids do not depend on where in the prompt it
lands: a tokenizer that puts a space of its own before every text (SentencePiece) is cured of it by
an anchor.
"""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from hydrahead.core.errors import HydraHeadError

_MEMO_LIMIT = 1 << 18
_ANCHOR = "\n"


@runtime_checkable
class TextCodec(Protocol):
    """What tasks ask of a tokenizer. A codec may also have `start_ids`, put before every prompt."""

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        ...


def start_ids(codec: TextCodec) -> tuple[int, ...]:
    """Ids every prompt starts with (beginning of text), empty for a codec that names none."""
    return tuple(getattr(codec, "start_ids", ()))


class TokenizerCodec:
    """A Hugging Face tokenizer as a codec that remembers what it has encoded."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._memo: dict[str, list[int]] = {}
        plain = self._plain("a")
        self.start_ids = _leading_special_ids(tokenizer.encode("a"), plain)
        anchor = self._plain(_ANCHOR)
        anchored = self._plain(_ANCHOR + "a")
        adds_space = anchored[: len(anchor)] == anchor and anchored[len(anchor) :] != plain
        self._anchor = anchor if adds_space else []

    def encode(self, text: str) -> list[int]:
        """Ids of `text` as they are inside a longer text, without special tokens."""
        ids = self._memo.get(text)
        if ids is None:
            if len(self._memo) >= _MEMO_LIMIT:
                self._memo.clear()
            ids = self._memo[text] = self._encode(text)
        return ids.copy()

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out and spaces kept as they are."""
        return self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def _encode(self, text: str) -> list[int]:
        if not text or not self._anchor:
            return self._plain(text)
        ids = self._plain(_ANCHOR + text)
        if ids[: len(self._anchor)] != self._anchor:
            raise HydraHeadError(
                f"the tokenizer joins a line break with the text after it ({text!r})",
                mend="use the model's fast tokenizer (tokenizer.json)",
            )
        return ids[len(self._anchor) :]

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))


def codec_from_tokenizer(tokenizer: Any) -> TokenizerCodec:
    """A codec whose prompts start with what the Hugging Face tokenizer starts texts with."""
    return TokenizerCodec(tokenizer)


def _leading_special_ids(full: Sequence[int], plain: Sequence[int]) -> tuple[int, ...]:
    """What stands before `plain` in `full`."""
    full, plain = list(full), list(plain)
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            return tuple(full[:start])
    return ()
