"""The general-ability probe: what a model can do without looking far back.

HydraHead (arXiv 2606.20097) scores heads on long-context retrieval and on a "general ability" whose
probes are unpublished. Ours asks for one word that the last sentences decide, at the end of
ordinary
filler: an attribute just given ("Anna has a red bag. The colour of Anna's bag is" -> " red"), the
verb that agrees with a subject across a phrase ("One sheep behind the doors" -> " is"), and the
next word of a repeating pattern. The counterfactual changes the colour, the numeral, or the
pattern.

Limits: it covers short-range copying and agreement, a small part of what a model can do (no
knowledge, no reasoning, no long text); a small model may fail the agreement items, which the
scorer's margin then drops; attribute items are retrieval at a distance of about ten tokens, so
local induction heads score on them by design.
"""

from random import Random
from typing import ClassVar, Literal

from hydrahead.core.errors import HydraHeadError
from hydrahead.tasks import draws
from hydrahead.tasks.base import TaskBase
from hydrahead.tasks.codec import TextCodec, start_ids
from hydrahead.tasks.filler import filler
from hydrahead.tasks.layout import replaced
from hydrahead.tasks.sample import Counterfactual, Sample
from hydrahead.tasks.words import COLOURS, NAMES, PLACES

_RETRIES = 64
_THINGS = ("bag", "car", "ball", "pen", "bike", "bowl", "phone", "flag", "cap", "kite")
_SUBJECTS = ("sheep", "fish", "deer", "salmon", "trout", "aircraft")
"""Nouns with one form for both numbers: the numeral alone decides the verb."""
_PLURAL_NUMERALS = (" Two", " Six", " Ten", " Four", " Five", " Nine")
_NEARBY = (
    ("door", "doors"),
    ("tree", "trees"),
    ("house", "houses"),
    ("rock", "rocks"),
    ("wall", "walls"),
    ("boat", "boats"),
)
_VERBS = ((" is", " are"), (" was", " were"), (" has", " have"))

Item = tuple[str, str, str, str, str, str]
"""(before, changing word, counterfactual word, after, answer, counterfactual answer)"""


class General(TaskBase):
    """One short item at the end of filler.

    `mixed` takes the sorts of item in turn by index, and passes over one that the tokenizer cannot
    make: its words and their counterfactuals must have equally many tokens.
    """

    kind: ClassVar[str] = "general"

    item: Literal["mixed", "attribute", "agreement", "pattern"] = "mixed"

    def max_new_tokens(self, codec: TextCodec) -> int:
        """The longest possible answer."""
        answers = [f" {colour}" for colour in COLOURS] + [verb for pair in _VERBS for verb in pair]
        return max(len(codec.encode(answer)) for answer in answers)

    def score(self, generated: str, sample: Sample) -> float:
        """1 if the generation starts with the target word."""
        words = generated.split()
        return float(bool(words) and words[0].strip(".,;:!?'\"") == sample.targets[0])

    def _build(
        self, rng: Random, codec: TextCodec, length: int, index: int, depth: float | None
    ) -> Sample:
        before, word, other_word, after, answer, other_answer = self._item(rng, codec, index)
        clean, changed = codec.encode(word), codec.encode(other_word)
        right, wrong = codec.encode(answer), codec.encode(other_answer)
        head = start_ids(codec)
        opening, ending = codec.encode(before), codec.encode(after)
        fixed = len(head) + len(opening) + len(clean) + len(ending)
        ids = list(head)
        for sentence in filler(rng, codec, self._budget(codec, length, fixed)):
            ids += sentence
        ids += opening
        span = (len(ids), len(ids) + len(clean))
        ids += clean
        ids += ending
        return Sample(
            task=self.name,
            prompt_ids=tuple(ids),
            answer_ids=tuple(right),
            targets=(answer.strip(),),
            evidence=(span,),
            length=length,
            depth=depth,
            index=index,
            counterfactual=Counterfactual(
                prompt_ids=replaced(ids, span, changed), answer_ids=tuple(wrong)
            ),
        )

    def _item(self, rng: Random, codec: TextCodec, index: int) -> Item:
        """An item whose words and counterfactual words have as many tokens in this tokenizer."""
        sorts = tuple(_ITEMS)
        first = index % len(sorts)
        mixed = (*sorts[first:], *sorts[:first])
        for sort in mixed if self.item == "mixed" else (self.item,):
            for _ in range(_RETRIES):
                item = _ITEMS[sort](rng)
                _, word, other_word, _, answer, other_answer = item
                if len(codec.encode(word)) == len(codec.encode(other_word)) and len(
                    codec.encode(answer)
                ) == len(codec.encode(other_answer)):
                    return item
        raise HydraHeadError(
            "found no two words with as many tokens in this tokenizer",
            where=f"task {self.name}",
            mend="use another item: attribute, agreement or pattern",
        )


def _attribute(rng: Random) -> Item:
    """An adjective given one sentence before it is asked for."""
    name, thing = draws.pick(rng, NAMES), draws.pick(rng, _THINGS)
    colour, other = (f" {word}" for word in draws.pick_distinct(rng, COLOURS, 2))
    return (
        f" {name} has a",
        colour,
        other,
        f" {thing}. The colour of the {thing} is",
        colour,
        other,
    )


def _agreement(rng: Random) -> Item:
    """A verb that agrees with the subject's numeral, and not with the noun beside it."""
    verbs = draws.pick(rng, _VERBS)
    number = draws.below(rng, 2)
    numerals = (" One", draws.pick(rng, _PLURAL_NUMERALS))
    # The nearer noun has the other number, so the nearest noun is the wrong one to agree with.
    nearby = draws.pick(rng, _NEARBY)[1 - number]
    after = f" {draws.pick(rng, _SUBJECTS)} behind the {nearby}"
    return ("", numerals[number], numerals[1 - number], after, verbs[number], verbs[1 - number])


def _pattern(rng: Random) -> Item:
    """Three words, then the first two again; the counterfactual changes the third."""
    place = draws.pick(rng, PLACES)
    first, second, third, other = (f" {word}" for word in draws.pick_distinct(rng, COLOURS, 4))
    opening = f" The lights {place} flashed{first}{second}"
    return (opening, third, other, f"{first}{second}", third, other)


_ITEMS = {"attribute": _attribute, "agreement": _agreement, "pattern": _pattern}
