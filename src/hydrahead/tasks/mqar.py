"""Multi-query associative recall (Zoology, arXiv 2312.04927), in words.

The prompt is bare: key value key value ... noise ... key value key value key. Keys, values and
noise are disjoint sets of the tokenizer's cheapest nouns. The queries before the last one show
their values, as in Zoology's sequences, and are `recalled` spans for training; the last is answered
by generation.
"""

from random import Random
from typing import ClassVar

from pydantic import Field, model_validator

from hydrahead.tasks import draws
from hydrahead.tasks.base import TaskBase
from hydrahead.tasks.codec import TextCodec, start_ids
from hydrahead.tasks.layout import replaced
from hydrahead.tasks.sample import Counterfactual, Sample, Span
from hydrahead.tasks.vocabulary import cheap_words

_NOISE_WORDS = 64
_SPARE_WORDS = 16
"""Noise words kept out of the prompt, for the counterfactual."""


class Mqar(TaskBase):
    """`pairs` pairs at the start, `queries` of their keys at the end, noise words between."""

    kind: ClassVar[str] = "mqar"

    pairs: int = Field(default=8, ge=2, le=160)
    queries: int = Field(default=4, ge=1, le=160)

    @model_validator(mode="after")
    def _queries_have_pairs(self) -> "Mqar":
        if self.queries > self.pairs:
            raise ValueError(f"queries={self.queries} is more than pairs={self.pairs}")
        return self

    def max_new_tokens(self, codec: TextCodec) -> int:
        """The longest value word."""
        return max(map(len, cheap_words(codec, _NOISE_WORDS + 2 * self.pairs)))

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        words = draws.shuffled(rng, cheap_words(codec, _NOISE_WORDS + 2 * self.pairs))
        keys, values = words[: self.pairs], words[self.pairs : 2 * self.pairs]
        noise = words[2 * self.pairs + _SPARE_WORDS :]
        spare = words[2 * self.pairs : 2 * self.pairs + _SPARE_WORDS]
        ids = list(start_ids(codec))
        spans: list[Span] = []
        for key, value in zip(keys, values, strict=True):
            ids += key
            spans.append((len(ids), len(ids) + len(value)))
            ids += value
        queried = draws.pick_distinct(rng, range(self.pairs), self.queries)
        shown = sum(len(keys[q]) + len(values[q]) for q in queried[:-1])
        last = queried[-1]
        left = self._budget(codec, length, len(ids) + shown + len(keys[last]))
        while len(word := draws.pick(rng, noise)) <= left:
            ids += word
            left -= len(word)
        recalled: list[Span] = []
        for q in queried[:-1]:
            ids += keys[q]
            recalled.append((len(ids), len(ids) + len(values[q])))
            ids += values[q]
        ids += keys[last]
        return Sample(
            task=self.name,
            prompt_ids=tuple(ids),
            answer_ids=tuple(values[last]),
            targets=(codec.decode(values[last]).strip(),),
            evidence=(spans[last],),
            length=length,
            depth=depth,
            index=index,
            counterfactual=_counterfactual(ids, spans[last], values[last], spare),
            recalled=tuple(recalled),
        )


def _counterfactual(
    ids: list[int], span: Span, value: list[int], spare: list[list[int]]
) -> Counterfactual | None:
    """The asked value swapped for a spare word with as many tokens; None where none of them has."""
    others = [word for word in spare if len(word) == len(value)]
    if not others:
        return None
    changed = others[0]
    return Counterfactual(prompt_ids=replaced(ids, span, changed), answer_ids=tuple(changed))
