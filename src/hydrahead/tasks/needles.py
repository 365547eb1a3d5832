"""What the four needle tasks share: the sentence that hides a number, and the question.

The value is encoded alone, in the needle as in the answer, so both have the same tokens. The
counterfactual changes every digit of the value that is asked for (the symmetric token replacement
of HydraHead, arXiv 2606.20097, 1.3) and nothing else.
"""

from collections.abc import Sequence
from random import Random

from pydantic import Field

from hydrahead.core.errors import HydraHeadError
from hydrahead.tasks import draws
from hydrahead.tasks.base import TaskBase
from hydrahead.tasks.codec import TextCodec, start_ids
from hydrahead.tasks.filler import filler
from hydrahead.tasks.layout import Insert, lay_out, replaced
from hydrahead.tasks.sample import Counterfactual, Sample

_RETRIES = 64
_INTRODUCTION = "Remember the secret numbers in this text."
SEPARATOR = ","


class NeedleTask(TaskBase):
    """Base of the needle tasks: numbers of `digits` digits that belong to nouns."""

    digits: int = Field(default=5, ge=3, le=12)

    def max_new_tokens(self, codec: TextCodec) -> int:
        """Every digit a token, a space before each value and a separator between two."""
        count = self._answer_values()
        return count * (self.digits + 1) + (count - 1) * len(codec.encode(SEPARATOR))

    def _answer_values(self) -> int:
        """How many values the answer has."""
        return 1

    def _numbers(self, rng: Random, count: int) -> list[str]:
        """Distinct numbers."""
        found: dict[str, None] = {}
        while len(found) < count:
            found.setdefault(draws.digits(rng, self.digits))
        return list(found)

    def _assemble(
        self,
        rng: Random,
        codec: TextCodec,
        *,
        length: int,
        index: int,
        depth: float | None,
        asked: Sequence["Needle"],
        others: Sequence["Needle"],
        question: str,
        lead_in: str,
    ) -> Sample:
        """Needles among filler, the question, and the values of `asked` as the answer."""
        needles = [*asked, *others]
        inserts = [_insert(codec, key, value, place) for key, value, place in needles]
        head = [*start_ids(codec), *codec.encode(_INTRODUCTION)]
        tail = [*codec.encode(question), *codec.encode(lead_in)]
        fixed = len(head) + len(tail) + sum(map(len, inserts))
        sentences = filler(rng, codec, self._budget(codec, length, fixed))
        ids, spans = lay_out(head, sentences, inserts, tail)
        values = [insert.value for insert in inserts[: len(asked)]]
        numbers = [value for _, value, _ in needles]
        changed = _other_value(rng, codec, numbers[0], values[0], taken=numbers)
        return Sample(
            task=self.name,
            prompt_ids=tuple(ids),
            answer_ids=_listed(codec, values),
            targets=tuple(numbers[: len(asked)]),
            evidence=tuple(spans[: len(asked)]),
            length=length,
            depth=depth,
            index=index,
            counterfactual=Counterfactual(
                prompt_ids=replaced(ids, spans[0], changed),
                answer_ids=_listed(codec, [changed, *values[1:]]),
            ),
        )


Needle = tuple[str, str, float]
"""(key, value, place)"""


def needle_text(key: str) -> str:
    """The needle up to its value; the answer's lead-in is the same text."""
    return f" The secret number of the {key} is"


def _insert(codec: TextCodec, key: str, value: str, place: float) -> Insert:
    return Insert(
        before=codec.encode(needle_text(key)),
        value=codec.encode(f" {value}"),
        after=codec.encode("."),
        place=place,
    )


def _listed(codec: TextCodec, values: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The values with separators between them."""
    ids = list(values[0])
    for value in values[1:]:
        ids += codec.encode(SEPARATOR)
        ids += value
    return tuple(ids)


def _other_value(
    rng: Random, codec: TextCodec, number: str, ids: Sequence[int], taken: Sequence[str]
) -> list[int]:
    """Ids of a number with as many tokens as `ids` that differs from `number` in every digit."""
    for _ in range(_RETRIES):
        other = draws.other_digits(rng, number)
        changed = codec.encode(f" {other}")
        if len(changed) == len(ids) and other not in taken:
            return changed
    raise HydraHeadError(
        f"found no number with as many tokens as {number} ({len(ids)})",
        where="counterfactual of a needle task",
        mend="use a number of digits the tokenizer splits evenly, such as digits=3 or digits=6",
    )
