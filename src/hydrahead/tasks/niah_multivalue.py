"""One key with several values, each in a needle of its own; all of them are asked for."""

from random import Random
from typing import ClassVar

from pydantic import Field

from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.draws import pick
from hydrahead.tasks.needles import NeedleTask
from hydrahead.tasks.sample import Sample
from hydrahead.tasks.words import KEYS


class NiahMultivalue(NeedleTask):
    """`values` needles with the same key. Scored by the share of values found, in any order."""

    kind: ClassVar[str] = "niah_multivalue"

    values: int = Field(default=3, ge=2, le=64)

    def _answer_values(self) -> int:
        return self.values

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        key = pick(rng, KEYS)
        values = self._numbers(rng, self.values)
        places = sorted(rng.random() for _ in values)
        return self._assemble(
            rng,
            codec,
            length=length,
            index=index,
            depth=depth,
            asked=[(key, value, place) for value, place in zip(values, places, strict=True)],
            others=[],
            question=f"\nWhat are the {self.values} secret numbers of the {key}?",
            lead_in=f" The secret numbers of the {key} are",
        )
