"""When two phrases are the same: equal Porter stems of their words, in order.

That is the convention of the field (specs: 6.7). Porter's algorithm of 1980 as `snowballstemmer`
has it; NLTK's default adds rules of its own and differs on a few words.
"""

import functools
import re
from collections.abc import Sequence

from hydrahead.core.errors import HydraHeadError

PIECE = re.compile(r"[^\W_]+[+#]*")
"""Letters and digits of a word between hyphens, dots and underscores; "C++" is not "C"."""


@functools.cache
def _stemmer() -> object:
    try:
        import snowballstemmer
    except ImportError:
        mend = "pip install 'hydrahead[keyphrase]'"
        raise HydraHeadError("keyphrases need snowballstemmer", mend=mend) from None
    return snowballstemmer.stemmer("porter")


@functools.lru_cache(maxsize=1 << 17)
def stem(piece: str) -> str:
    """The stem of one piece of a word, in lower case."""
    return _stemmer().stemWord(piece.lower())  # type: ignore[attr-defined]


def stems(text: str) -> tuple[str, ...]:
    """Stems of a phrase's pieces; empty for punctuation.

    Raises:
        HydraHeadError: The `keyphrase` extra is not installed.
    """
    return tuple(stem(piece) for piece in PIECE.findall(text))


def distinct(phrases: Sequence[str]) -> dict[tuple[str, ...], str]:
    """Phrases by their stems, the first spelling of each, in order; punctuation is left out."""
    found: dict[tuple[str, ...], str] = {}
    for phrase in phrases:
        if key := stems(phrase):
            found.setdefault(key, phrase)
    return found
