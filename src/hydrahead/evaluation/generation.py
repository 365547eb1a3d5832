"""Greedy decoding of a batch of prompts, through the model's own `generate`.

Prompts are padded on the left. A checkpoint's generation settings (temperature, penalties, length)
are set aside while we decode and put back after: every model is asked in the same way.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from hydrahead.model.finite import FiniteLogits
from hydrahead.model.names import embeddings_of, name_of
from hydrahead.tasks.vocabulary import require_vocabulary


def greedy(
    model: Any, prompts: Sequence[Sequence[int]], *, max_new_tokens: int, pad_id: int
) -> list[list[int]]:
    """Continuations of `prompts`, each cut before the first end-of-text token.

    Args:
        model: a causal language model of transformers' shape.
        prompts: token ids, of any lengths.
        max_new_tokens: tokens to generate; a model that ends its text earlier stops.
        pad_id: fills the left; masked, so any id does.

    Returns:
        Ids of the new tokens, per prompt.

    Raises:
        HydraHeadError: a prompt holds an id that the model does not know, or the model's
            predictions are not finite.
    """
    vocab_size = embeddings_of(model)
    require_vocabulary(max(map(max, prompts)), vocab_size, where=name_of(model))
    pad_id = 0 if vocab_size is not None and pad_id >= vocab_size else pad_id
    width = max(map(len, prompts))
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ends = _end_ids(model)
    with torch.inference_mode(), _plain_settings(model, pad_id):
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=max_new_tokens,
            do_sample=False,
            num_beams=1,
            logits_processor=LogitsProcessorList([FiniteLogits(model)]),
        )
    return [_until(row, ends) for row in output[:, width:].tolist()]


def pad_id_for(tokenizer: Any) -> int:
    """An id to pad with."""
    for name in ("pad_token_id", "eos_token_id"):
        found = getattr(tokenizer, name, None)
        if isinstance(found, int):
            return found
    return 0


@contextmanager
def _plain_settings(model: Any, pad_id: int) -> Iterator[None]:
    before = model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=before.bos_token_id, eos_token_id=before.eos_token_id, pad_token_id=pad_id
    )
    try:
        yield
    finally:
        model.generation_config = before


def _end_ids(model: Any) -> frozenset[int]:
    ends = model.generation_config.eos_token_id
    if ends is None:
        return frozenset()
    return frozenset([ends] if isinstance(ends, int) else ends)


def _until(ids: list[int], ends: frozenset[int]) -> list[int]:
    return next((ids[:place] for place, token in enumerate(ids) if token in ends), ids)
