"""Putting a prompt together, with every span known exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydrahead.tasks.sample import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Insert:
    """A sentence worth finding, at `place` (0 ... 1) among the filler."""

    before: list[int]
    value: list[int]
    after: list[int]
    place: float

    def __len__(self) -> int:
        return len(self.before) + len(self.value) + len(self.after)


def lay_out(
    head: Sequence[int],
    sentences: Sequence[Sequence[int]],
    inserts: Sequence[Insert],
    tail: Sequence[int],
) -> tuple[list[int], list[Span]]:
    """The prompt's ids, and the span of every insert's value in the order of `inserts`.

    An insert goes between sentences, never into one. Inserts that meet at one gap keep their order.
    """
    gaps: dict[int, list[int]] = {}
    for number, insert in enumerate(inserts):
        gaps.setdefault(round(insert.place * len(sentences)), []).append(number)
    ids = list(head)
    spans: list[Span] = [(0, 0)] * len(inserts)
    for gap in range(len(sentences) + 1):
        for number in gaps.get(gap, ()):
            insert = inserts[number]
            ids += insert.before
            spans[number] = (len(ids), len(ids) + len(insert.value))
            ids += insert.value
            ids += insert.after
        if gap < len(sentences):
            ids += sentences[gap]
    ids += tail
    return ids, spans


def replaced(ids: Sequence[int], span: Span, value: Sequence[int]) -> tuple[int, ...]:
    """`ids` with `value` in place of the equally long `span`."""
    assert span[1] - span[0] == len(value)
    return (*ids[: span[0]], *value, *ids[span[1] :])
