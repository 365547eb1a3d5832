"""Many keys, and question after question about them: the dense lesson in telling needles apart.

A sample of `niah_multikey` asks once, so a small model sees one chance per row to learn that the
key decides; one that had seen 0.4 billion tokens of them still guessed among the needles. Here
every key is asked for in turn, in the same words as in `niah_multikey`; all answers but the last
are part of the prompt.
"""

from random import Random
from typing import ClassVar

from pydantic import Field

from hydrahead.tasks import draws
from hydrahead.tasks.codec import TextCodec, start_ids
from hydrahead.tasks.filler import filler
from hydrahead.tasks.layout import Insert, lay_out
from hydrahead.tasks.needles import NeedleTask, needle_text
from hydrahead.tasks.sample import Sample
from hydrahead.tasks.words import KEYS


class NiahRounds(NeedleTask):
    """`keys` needles, each asked for once, in random order."""

    kind: ClassVar[str] = "niah_rounds"

    keys: int = Field(default=4, ge=2, le=256)

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        keys = draws.pick_distinct(rng, KEYS, self.keys)
        numbers = self._numbers(rng, self.keys)
        values = [codec.encode(f" {number}") for number in numbers]
        inserts = [
            Insert(
                before=codec.encode(needle_text(key)),
                value=value,
                after=codec.encode("."),
                place=rng.random(),
            )
            for key, value in zip(keys, values, strict=True)
        ]
        tail: list[int] = []
        answered: list[tuple[int, int]] = []
        order = draws.shuffled(rng, range(self.keys))
        for number in order:
            tail += codec.encode(f"\nWhat is the secret number of the {keys[number]}?")
            tail += codec.encode(needle_text(keys[number]))
            if number != order[-1]:
                answered.append((len(tail), len(tail) + len(values[number])))
                tail += values[number]
        head = list(start_ids(codec))
        fixed = len(head) + len(tail) + sum(map(len, inserts))
        sentences = filler(rng, codec, self._budget(codec, length, fixed))
        ids, spans = lay_out(head, sentences, inserts, tail)
        offset = len(ids) - len(tail)
        return Sample(
            task=self.name,
            prompt_ids=tuple(ids),
            answer_ids=tuple(values[order[-1]]),
            targets=(numbers[order[-1]],),
            evidence=(spans[order[-1]],),
            length=length,
            depth=depth,
            index=index,
            recalled=tuple((offset + start, offset + stop) for start, stop in answered),
        )
