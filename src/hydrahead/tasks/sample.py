"""One sample of a task, in token ids of the model's own tokenizer."""

from dataclasses import dataclass

Span = tuple[int, int]
"""[start, stop) in `prompt_ids`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterfactual:
    """The same prompt with another value in the needle, and the answer that follows from it.

    Both have exactly as many tokens as the clean ones, so positions line up.
    """

    prompt_ids: tuple[int, ...]
    answer_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A prompt, its right continuation, and where in the prompt the answer comes from."""

    task: str
    prompt_ids: tuple[int, ...]
    """Starts with the codec's `start_ids`."""
    answer_ids: tuple[int, ...]
    """The right continuation; a leading space is part of it."""
    targets: tuple[str, ...]
    """Strings a generation must contain."""
    evidence: tuple[Span, ...]
    """Spans of `prompt_ids` that hold the answer's value(s), in answer order."""
    length: int
    """Tokens asked for; prompt and generation together stay within it."""
    depth: float | None
    index: int
    counterfactual: Counterfactual | None = None
    recalled: tuple[Span, ...] = ()
    """Further spans of `prompt_ids` that repeat something earlier; training learns from them."""

    @property
    def first_difference(self) -> int | None:
        """Index in `prompt_ids` of the first token the counterfactual changes."""
        if self.counterfactual is None:
            return None
        pairs = zip(self.prompt_ids, self.counterfactual.prompt_ids, strict=True)
        return next(i for i, (clean, changed) in enumerate(pairs) if clean != changed)


def training_example(sample: Sample) -> tuple[list[int], list[bool]]:
    """Prompt and answer as one sequence, and which of its tokens are to be learned.

    Returns:
        `ids` and `loss_mask`, equally long. `loss_mask[i]` says that token `ids[i]` is a target, to
        be predicted at position i - 1: the answer, and the spans the prompt itself repeats.
    """
    ids = [*sample.prompt_ids, *sample.answer_ids]
    mask = [False] * len(sample.prompt_ids) + [True] * len(sample.answer_ids)
    for start, stop in sample.recalled:
        mask[start:stop] = [True] * (stop - start)
    return ids, mask
