"""Repeated random spans: the densest lesson in copying, for a model that has yet to learn it.

Random words in spans of random length, then the same spans again in another order. Everything after
a repeated span's first words can be predicted by an induction head, and nothing else can.
"""

from random import Random
from typing import ClassVar

from pydantic import Field, model_validator

from hydrahead.core.errors import HydraHeadError
from hydrahead.tasks import draws
from hydrahead.tasks.base import TaskBase
from hydrahead.tasks.codec import TextCodec, start_ids
from hydrahead.tasks.sample import Sample, Span
from hydrahead.tasks.vocabulary import cheap_words

_WORDS = 256


class CopySpans(TaskBase):
    """Spans of random words, all repeated; the answer is `answer_words` words of the last repeat.

    A span has `shortest` to `longest` words. The first `cue_words` of a repeat tell which span it
    is; the rest of it is `recalled`.
    """

    kind: ClassVar[str] = "copy_spans"

    shortest: int = Field(default=6, ge=4, le=64)
    longest: int = Field(default=12, ge=4, le=128)
    cue_words: int = Field(default=2, ge=1, le=3)
    answer_words: int = Field(default=2, ge=1, le=3)

    @model_validator(mode="after")
    def _lengths_fit(self) -> "CopySpans":
        if self.shortest > self.longest:
            raise ValueError(f"shortest={self.shortest} is more than longest={self.longest}")
        if self.shortest < self.cue_words + self.answer_words:
            raise ValueError("shortest must hold cue_words and answer_words")
        return self

    def max_new_tokens(self, codec: TextCodec) -> int:
        """The answer's words at the price of the longest word in use."""
        return self.answer_words * max(map(len, cheap_words(codec, _WORDS)))

    def score(self, generated: str, sample: Sample) -> float:
        """Share of the answer's words that are right, up to the first wrong one."""
        [target] = sample.targets
        right, wanted = 0, target.split()
        for expected, found in zip(wanted, generated.split(), strict=False):
            if expected != found:
                break
            right += 1
        return right / len(wanted)

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        words = cheap_words(codec, _WORDS)
        head = list(start_ids(codec))
        spans = self._spans(rng, words, self._budget(codec, length, len(head)))
        if not spans:
            raise HydraHeadError(
                f"{length} tokens are too few for a span and its repeat",
                where=f"task {self.name}",
                mend="ask for a longer length or shorter spans (longest=...)",
            )
        ids = head
        starts: list[int] = []
        for span in spans:
            starts.append(len(ids))
            ids += _ids(words, span)
        order = draws.shuffled(rng, range(len(spans)))
        order.append(order.pop(_last_repeat(spans, order, self.cue_words)))
        recalled: list[Span] = []
        for number in order[:-1]:
            ids += _ids(words, spans[number][: self.cue_words])
            start = len(ids)
            ids += _ids(words, spans[number][self.cue_words :])
            recalled.append((start, len(ids)))
        last = spans[order[-1]]
        cue = _ids(words, last[: self.cue_words])
        answer = _ids(words, last[self.cue_words : self.cue_words + self.answer_words])
        ids += cue
        found = starts[order[-1]] + len(cue)
        return Sample(
            task=self.name,
            prompt_ids=tuple(ids),
            answer_ids=tuple(answer),
            targets=(codec.decode(answer).strip(),),
            evidence=((found, found + len(answer)),),
            length=length,
            depth=depth,
            index=index,
            recalled=tuple(recalled),
        )

    def _spans(self, rng: Random, words: list[list[int]], budget: int) -> list[list[int]]:
        """Spans (word numbers) that fit twice into `budget` tokens."""
        spans: list[list[int]] = []
        while True:
            count = self.shortest + draws.below(rng, self.longest - self.shortest + 1)
            span = [draws.below(rng, len(words)) for _ in range(count)]
            budget -= 2 * sum(len(words[word]) for word in span)
            if budget < 0:
                return spans
            spans.append(span)


def _ids(words: list[list[int]], span: list[int]) -> list[int]:
    return [token for word in span for token in words[word]]


def _last_repeat(spans: list[list[int]], order: list[int], cue_words: int) -> int:
    """Place in `order` of a span whose cue stands nowhere else: its continuation is certain."""
    text = [word for span in spans for word in span]
    cues = [tuple(text[i : i + cue_words]) for i in range(len(text) - cue_words + 1)]
    for place, number in enumerate(order):
        if cues.count(tuple(spans[number][:cue_words])) == 1:
            return place
    return 0
