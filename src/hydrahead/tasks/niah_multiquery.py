"""Several needles with keys of their own, several of them asked for in one question."""

from random import Random
from typing import ClassVar

from pydantic import Field, model_validator

from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.draws import pick_distinct
from hydrahead.tasks.needles import NeedleTask
from hydrahead.tasks.sample import Sample
from hydrahead.tasks.words import KEYS


class NiahMultiquery(NeedleTask):
    """`queries` of `keys` needles are asked for, to be answered in the question's order."""

    kind: ClassVar[str] = "niah_multiquery"

    keys: int = Field(default=4, ge=2, le=256)
    queries: int = Field(default=2, ge=2, le=64)

    @model_validator(mode="after")
    def _queries_have_keys(self) -> "NiahMultiquery":
        if self.queries > self.keys:
            raise ValueError(f"queries={self.queries} is more than keys={self.keys}")
        return self

    def _answer_values(self) -> int:
        return self.queries

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        keys = pick_distinct(rng, KEYS, self.keys)
        values = self._numbers(rng, self.keys)
        needles = [(key, value, rng.random()) for key, value in zip(keys, values, strict=True)]
        asked = [f"the {key}" for key in keys[: self.queries]]
        listed = f"{', '.join(asked[:-1])} and {asked[-1]}"
        return self._assemble(
            rng,
            codec,
            length=length,
            index=index,
            depth=depth,
            asked=needles[: self.queries],
            others=needles[self.queries :],
            question=f"\nWhat are the secret numbers of {listed}?",
            lead_in=f" The secret numbers of {listed} are",
        )
