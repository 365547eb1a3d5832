"""What a tokenizer makes of words, and whether a model knows what it makes."""

from hydrahead.core.errors import UnusableInput
from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.words import KEYS


def cheap_words(codec: TextCodec, count: int) -> list[list[int]]:
    """Ids of the `count` nouns with the fewest tokens, each with its leading space.

    Sorted by number of tokens and otherwise in the order of the word list, so the choice depends on
    the tokenizer alone.
    """
    assert count <= len(KEYS)
    return sorted((codec.encode(f" {word}") for word in KEYS), key=len)[:count]


def require_vocabulary(top: int, vocab_size: int | None, *, where: str | None = None) -> None:
    """Refuse token ids that a model has no embedding for.

    Args:
        top: the largest id.
        vocab_size: embeddings the model has; None if that is not known, and nothing is refused.
        where: what the ids are of, or for.

    Raises:
        UnusableInput: `top` is none of them.
    """
    if vocab_size is not None and top >= vocab_size:
        raise UnusableInput(
            f"the tokenizer made the id {top}, the model's vocabulary has {vocab_size}",
            where=where,
            mend="use the tokenizer that belongs to the model",
        )
