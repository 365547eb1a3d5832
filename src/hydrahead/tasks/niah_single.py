"""One number hidden in filler and asked for at the end (after RULER, arXiv 2404.06654)."""

from random import Random
from typing import ClassVar

from hydrahead.tasks.codec import TextCodec
from hydrahead.tasks.draws import pick
from hydrahead.tasks.needles import NeedleTask, needle_text
from hydrahead.tasks.sample import Sample
from hydrahead.tasks.words import KEYS


class NiahSingle(NeedleTask):
    """One key, one value."""

    kind: ClassVar[str] = "niah_single"
    has_depth: ClassVar[bool] = True

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        key = pick(rng, KEYS)
        [value] = self._numbers(rng, 1)
        return self._assemble(
            rng,
            codec,
            length=length,
            index=index,
            depth=depth,
            asked=[(key, value, rng.random() if depth is None else depth)],
            others=[],
            question=f"\nWhat is the secret number of the {key}?",
            lead_in=needle_text(key),
        )
