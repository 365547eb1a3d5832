"""Filler: endless harmless sentences, without digits, keys or anything worth remembering.

A sentence is three phrases (who, did what, where or when) out of fixed pools, so a codec that
remembers its encodings meets about two thousand distinct phrases and a 2048-token prompt costs well
under a millisecond.
"""

from itertools import product
from random import Random

from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.draws import below, pick
from hydrahead.tasks.words import ACTIONS, ADJECTIVES, OBJECTS, PEOPLE, PLACES, TIMES

_SUBJECTS = tuple(f" The {adjective} {person}" for adjective, person in product(ADJECTIVES, PEOPLE))
_PREDICATES = tuple(f" {action} {what}" for action, what in product(ACTIONS, OBJECTS))
_ENDINGS = (
    *(f" {place}." for place in PLACES),
    *(f" {time}." for time in TIMES),
    *(f" {place} {time}." for place, time in product(PLACES, TIMES)),
)
_SHORT_ENDING = "."


def filler_sentence(rng: Random, codec: TextCodec) -> list[int]:
    """Ids of one sentence, starting with a space and ending with a full stop."""
    ids = codec.encode(pick(rng, _SUBJECTS))
    ids += codec.encode(pick(rng, _PREDICATES))
    ending = pick(rng, _ENDINGS) if below(rng, 4) else _SHORT_ENDING
    ids += codec.encode(ending)
    return ids


def filler(rng: Random, codec: TextCodec, budget: int) -> list[list[int]]:
    """Sentences of at most `budget` tokens together; less than one sentence of it stays unused."""
    sentences: list[list[int]] = []
    left = budget
    while True:
        sentence = filler_sentence(rng, codec)
        if len(sentence) > left:
            return sentences
        sentences.append(sentence)
        left -= len(sentence)
