"""Words that cost a given tokenizer few tokens, for the tasks that are made of bare words."""

from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.words import KEYS


def cheap_words(codec: TextCodec, count: int) -> list[list[int]]:
    """Ids of the `count` nouns with the fewest tokens, each with its leading space.

    Sorted by number of tokens and otherwise in the order of the word list, so the choice depends on
    the tokenizer alone.
    """
    assert count <= len(KEYS)
    return sorted((codec.encode(f" {word}") for word in KEYS), key=len)[:count]
