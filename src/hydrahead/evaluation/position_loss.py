"""Loss by position: does a model make use of what lies far back?

Running text is cut into sequences of equal length; the loss of each target is put into the bucket
of the position it was predicted at. The standard error is over sequences, not tokens: tokens of
one text are anything but independent. The text is read through the model's cache, a piece at a
time, so that logits for a whole long sequence never exist at once.
"""

import math
from collections.abc import Callable
from itertools import islice, pairwise
from typing import Any

import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.evaluation.results import PositionBucket, PositionLoss
from hydrahead.evaluation.statistics import mean_and_standard_error
from hydrahead.model.cache_name import CACHE_NAME
from hydrahead.model.finite import not_finite
from hydrahead.model.names import embeddings_of, name_of
from hydrahead.tasks.vocabulary import require_vocabulary

_LOGIT_NUMBERS = 1 << 26
"""Logits held at once."""
_BUCKETS = 16


def text_sequences(tokenizer: Any, source: str, *, length: int, count: int) -> list[list[int]]:
    """Up to `count` sequences of `length` + 1 tokens of running text.

    Args:
        tokenizer: the model's own.
        source: `builtin`, or any text source of `training.data` (a file, a folder, `hf:NAME`).
        length: positions that predict.
        count: sequences wanted.

    Raises:
        HydraHeadError: no such source, or less text than one sequence.
    """
    from hydrahead.training.data.sources import build_source

    spec = "builtin:recall=0" if source == "builtin" else source
    mixture = build_source(spec, tokenizer, length=length)
    wanted = count * (length + 1)
    ids: list[int] = []
    documents = (
        document
        for part in mixture.parts
        for record in part.source.records(0)
        for document in part.source.encode(record)
    )
    for document in documents:
        ids += document.ids
        if len(ids) >= wanted:
            break
    rows = [ids[start : start + length + 1] for start in range(0, len(ids), length + 1)]
    whole = [row for row in islice(rows, count) if len(row) == length + 1]
    if not whole:
        raise HydraHeadError(
            f"holds {len(ids)} tokens, {length + 1} are needed",
            where=source,
            mend="give more text or a shorter length",
        )
    return whole


def position_loss(
    model: Any,
    sequences: list[list[int]],
    *,
    source: str,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> PositionLoss:
    """Loss by position of `sequences`, all equally long.

    Args:
        model: a causal language model of transformers' shape.
        sequences: [n][length + 1] token ids.
        source: what the text was; kept in the result.
        batch_size: sequences read at once.
        advance: called with the number of sequences done.

    Raises:
        HydraHeadError: an id that the model does not know, the model gives no cache, or a loss is
            not finite.
    """
    require_vocabulary(max(map(max, sequences)), embeddings_of(model), where=name_of(model))
    length = len(sequences[0]) - 1
    edges = _edges(length)
    per_sequence: list[list[float]] = []
    for start in range(0, len(sequences), batch_size):
        batch = sequences[start : start + batch_size]
        losses = _token_losses(model, torch.tensor(batch))
        if not bool(losses.isfinite().all()):
            raise not_finite("the loss by position is", source, model.dtype)
        per_sequence += torch.stack(
            [losses[:, low:high].mean(dim=1) for low, high in edges], dim=1
        ).tolist()
        advance(len(batch))
    buckets: list[PositionBucket] = []
    for number, (low, high) in enumerate(edges):
        mean, error = mean_and_standard_error([row[number] for row in per_sequence])
        buckets.append(
            PositionBucket(
                start=low, stop=high, n=len(per_sequence), loss=mean, standard_error=error
            )
        )
    total = math.fsum(b.loss * (b.stop - b.start) for b in buckets) / length
    return PositionLoss(
        source=source,
        sequences=len(sequences),
        length=length,
        buckets=tuple(buckets),
        loss=total,
        perplexity=math.exp(min(total, 700.0)),
    )


def _edges(length: int) -> list[tuple[int, int]]:
    """Up to 16 buckets of equal width that cover every position."""
    count = min(_BUCKETS, length)
    cuts = [length * number // count for number in range(count + 1)]
    return list(pairwise(cuts))


@torch.inference_mode()
def _token_losses(model: Any, rows: torch.Tensor) -> torch.Tensor:
    """[b, t + 1] ids -> [b, t] losses in fp64 on the CPU, read piece by piece through the cache."""
    inputs, targets = rows[:, :-1], rows[:, 1:]
    batch, length = inputs.shape
    piece = max(64, _LOGIT_NUMBERS // (batch * model.config.vocab_size))
    losses: list[torch.Tensor] = []
    cache: dict[str, Any] = {}
    for start in range(0, length, piece):
        part = inputs[:, start : start + piece].to(model.device)
        last = start + piece >= length
        output = model(input_ids=part, use_cache=not last or bool(cache), **cache)
        logits = output.logits.float()
        wanted = targets[:, start : start + piece].to(logits.device)
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), wanted.flatten(), reduction="none"
        )
        losses.append(loss.view(batch, -1).double().cpu())
        if not last:
            past = getattr(output, CACHE_NAME, None)
            if past is None:
                raise HydraHeadError(
                    f"the model gives no cache, so {length} tokens cannot be read in pieces",
                    where="loss by position",
                    mend=f"use lengths up to {piece}",
                )
            cache = {CACHE_NAME: past}
    return torch.cat(losses, dim=1)
