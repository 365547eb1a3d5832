"""Needles that differ in key and value, one of them asked for: the key decides, not the form."""

from random import Random
from typing import ClassVar

from pydantic import Field

from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.draws import pick_distinct
from hydrahead.tasks.needles import NeedleTask, needle_text
from hydrahead.tasks.sample import Sample
from hydrahead.tasks.words import KEYS


class NiahMultikey(NeedleTask):
    """`keys` needles of the same form, `keys` - 1 of them distractors."""

    kind: ClassVar[str] = "niah_multikey"
    has_depth: ClassVar[bool] = True

    keys: int = Field(default=4, ge=2, le=256)

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        keys = pick_distinct(rng, KEYS, self.keys)
        values = self._numbers(rng, self.keys)
        places = [rng.random() for _ in keys]
        if depth is not None:
            places[0] = depth
        needles = list(zip(keys, values, places, strict=True))
        return self._assemble(
            rng,
            codec,
            length=length,
            index=index,
            depth=depth,
            asked=needles[:1],
            others=needles[1:],
            question=f"\nWhat is the secret number of the {keys[0]}?",
            lead_in=needle_text(keys[0]),
        )
