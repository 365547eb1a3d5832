"""Where an answer is read from the model, and by what number (HydraHead, arXiv 2606.20097, Eq. 9).

    m = (1/Z) sum_j lambda^j (z_j[clean_j] - z_j[counterfactual_j]),   Z = sum_j lambda^j

j runs over the answer's tokens in which the two answers differ (the others would add exact zeros),
z_j are the logits at the position that *predicts* token j: one before it. Both runs are forced
along the clean answer, so position by position they see the same answer tokens.

Axes: r readout rows, d hidden size, v vocabulary.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.tasks import Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Readout:
    """One pair as the model sees it: two token rows, and what is read where."""

    clean_ids: tuple[int, ...]
    """Clean prompt and clean answer, its last token left out (nothing is predicted from it)."""
    corrupted_ids: tuple[int, ...]
    """Counterfactual prompt and the same clean answer."""
    rows: tuple[int, ...]
    """Positions that predict the answer tokens in which the two answers differ."""
    right: tuple[int, ...]
    """Clean answer token of each row."""
    wrong: tuple[int, ...]
    """Counterfactual answer token of each row."""
    weights: tuple[float, ...]
    """lambda^j / Z of each row; they sum to 1."""

    @property
    def first_change(self) -> int:
        """First position in which the two rows of tokens differ."""
        pairs = zip(self.clean_ids, self.corrupted_ids, strict=True)
        return next(place for place, (clean, other) in enumerate(pairs) if clean != other)


def readout_of(sample: Sample, decay: float) -> Readout:
    """The readout of a sample that has a counterfactual.

    Args:
        decay: lambda, 0.9 in the paper.
    """
    other = sample.counterfactual
    assert other is not None, "a sample without counterfactual has no span logit difference"
    assert len(other.prompt_ids) == len(sample.prompt_ids)
    assert len(other.answer_ids) == len(sample.answer_ids)
    answers = zip(sample.answer_ids, other.answer_ids, strict=True)
    differing = [place for place, (right, wrong) in enumerate(answers) if right != wrong]
    assert differing, "clean and counterfactual answer are the same"
    powers = [decay**j for j in range(len(differing))]
    forced = sample.answer_ids[:-1]
    return Readout(
        clean_ids=sample.prompt_ids + forced,
        corrupted_ids=other.prompt_ids + forced,
        rows=tuple(len(sample.prompt_ids) - 1 + place for place in differing),
        right=tuple(sample.answer_ids[place] for place in differing),
        wrong=tuple(other.answer_ids[place] for place in differing),
        weights=tuple(power / sum(powers) for power in powers),
    )


def span_direction(readout: Readout, unembedding: Float[Tensor, "v d"]) -> Float[Tensor, "r d"]:
    """What the normalised residual of every row is dotted with; the sum over rows is m.

    Logits of the whole vocabulary are never formed: m needs two of them per row.
    """
    rows = torch.tensor([readout.right, readout.wrong], device=unembedding.device)
    right, wrong = unembedding[rows].to(torch.promote_types(unembedding.dtype, torch.float32))
    weights = torch.tensor(readout.weights, dtype=right.dtype, device=right.device)
    return (right - wrong) * weights[:, None]


def copied_tokens(sample: Sample) -> list[tuple[int, tuple[int, ...]]]:
    """Which answer token is copied from where.

    Returns:
        For every token of every evidence span that the answer repeats as it stands, in answer
            order: its place in `answer_ids`, and the positions in `prompt_ids` that hold this token
            within the span (more than one where a value repeats a digit). Empty where the answer
            repeats no span.
    """
    found: list[tuple[int, tuple[int, ...]]] = []
    cursor = 0
    for start, stop in sample.evidence:
        span = sample.prompt_ids[start:stop]
        last = len(sample.answer_ids) - len(span)
        places = (
            p for p in range(cursor, last + 1) if sample.answer_ids[p : p + len(span)] == span
        )
        place = next(places, None)
        if place is None or not span:
            continue
        for offset, token in enumerate(span):
            holders = tuple(start + at for at, other in enumerate(span) if other == token)
            found.append((place + offset, holders))
        cursor = place + len(span)
    return found
