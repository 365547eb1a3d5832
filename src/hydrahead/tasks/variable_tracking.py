"""Variable tracking (RULER's vt): chains of assignments, one chain's variables asked for.

"VAR KXQ = 48213" binds a number, "VAR PLM = KXQ" passes it on. Chains are told apart by their
number only, so finding every variable of a chain takes one look-up per hop.
"""

from collections.abc import Callable
from random import Random
from typing import ClassVar

from pydantic import Field

from hydrahead.tasks import draws
from hydrahead.tasks.base import TaskBase
from hydrahead.tasks.codec import TextCodec, start_ids
from hydrahead.tasks.filler import filler
from hydrahead.tasks.layout import Insert, lay_out
from hydrahead.tasks.sample import Sample

_INTRODUCTION = "Keep track of the variables in this text."
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_NAME_LENGTH = 3


class VariableTracking(TaskBase):
    """`chains` chains of `hops` + 1 variables. The answer is the asked chain's names in order."""

    kind: ClassVar[str] = "variable_tracking"

    hops: int = Field(default=2, ge=1, le=16)
    chains: int = Field(default=2, ge=1, le=16)
    digits: int = Field(default=5, ge=3, le=12)

    def max_new_tokens(self, codec: TextCodec) -> int:
        """A token per letter, a space before each name and a separator between two."""
        names = self.hops + 1
        return names * (_NAME_LENGTH + 1) + self.hops * len(codec.encode(","))

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        per_chain = self.hops + 1
        names = _distinct(rng, self.chains * per_chain, _name)
        numbers = _distinct(rng, self.chains, lambda rng: draws.digits(rng, self.digits))
        inserts: list[Insert] = []
        for chain, number in enumerate(numbers):
            members = names[chain * per_chain : (chain + 1) * per_chain]
            sources = [number, *members[:-1]]
            places = sorted(rng.random() for _ in members)
            inserts += [
                Insert(
                    before=codec.encode(" VAR"),
                    value=codec.encode(f" {name}"),
                    after=[*codec.encode(" ="), *codec.encode(f" {source}"), *codec.encode(".")],
                    place=place,
                )
                for name, source, place in zip(members, sources, places, strict=True)
            ]
        asked = names[:per_chain]
        head = [*start_ids(codec), *codec.encode(_INTRODUCTION)]
        tail = [
            *codec.encode("\nWhich variables hold"),
            *codec.encode(f" {numbers[0]}"),
            *codec.encode(f"? The {per_chain} variables that hold"),
            *codec.encode(f" {numbers[0]}"),
            *codec.encode(" are"),
        ]
        fixed = len(head) + len(tail) + sum(map(len, inserts))
        sentences = filler(rng, codec, self._budget(codec, length, fixed))
        ids, spans = lay_out(head, sentences, inserts, tail)
        answer = codec.encode(f" {asked[0]}")
        for name in asked[1:]:
            answer += codec.encode(",")
            answer += codec.encode(f" {name}")
        return Sample(
            task=self.name,
            prompt_ids=tuple(ids),
            answer_ids=tuple(answer),
            targets=tuple(asked),
            evidence=tuple(spans[:per_chain]),
            length=length,
            depth=depth,
            index=index,
        )


def _name(rng: Random) -> str:
    # "VAR" itself must not name a variable.
    while (name := "".join(draws.pick(rng, _LETTERS) for _ in range(_NAME_LENGTH))) == "VAR":
        pass
    return name


def _distinct(rng: Random, count: int, draw: Callable[[Random], str]) -> list[str]:
    found: dict[str, None] = {}
    while len(found) < count:
        found.setdefault(draw(rng))
    return list(found)
