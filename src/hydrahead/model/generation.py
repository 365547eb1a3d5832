"""Text from a prompt, as `hydrahead generate` does it: load, encode, prefill in chunks, decode.

Everything runs through transformers' `generate`; this only chooses its settings and refuses what
would silently give nonsense (a context longer than the model knows, a chat without a template).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.seeds import derive_seed
from hydrahead.model.cache import HydraCache
from hydrahead.model.cache_name import CACHE_NAME
from hydrahead.model.finite import FiniteLogits
from hydrahead.model.loading import load_any_causal_lm, load_tokenizer
from hydrahead.model.names import embeddings_of, name_of
from hydrahead.tasks.vocabulary import require_vocabulary

PREFILL_CHUNK_TOKENS = 4096
"""Prompts longer than this are prefilled in pieces of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratedText:
    """What came out, and what it took."""

    text: str
    prompt_tokens: int
    new_tokens: int
    seconds: float
    cache_bytes: int | None
    """Bytes of the hybrid's states at the end; None for a model that is not one of ours."""


def generate_text(
    model: str | Path | PreTrainedModel,
    prompt: str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    chat: bool = False,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    prefill_chunk_tokens: int = PREFILL_CHUNK_TOKENS,
    cache_implementation: str | None = None,
    allow_long: bool = False,
    on_text: Callable[[str], None] | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    attn_implementation: str | None = None,
) -> GeneratedText:
    """Continue a prompt.

    Args:
        model: a directory, a Hugging Face name, or a loaded model.
        prompt: the text; with `chat`, the user's message.
        tokenizer: the model's tokenizer; needed when `model` is a loaded one.
        chat: wrap the prompt in the tokenizer's chat template.
        max_new_tokens: at most so many.
        temperature: 0 takes the likeliest token each time, more samples.
        top_p: sample from the smallest set of tokens with this probability.
        seed: of the sampling.
        prefill_chunk_tokens: tokens per forward while reading a long prompt.
        cache_implementation: None or "dynamic" (growing), or "static" (allocated once).
        allow_long: go beyond the model's context length.
        on_text: called with each finished piece of text as it is generated.
        dtype, device, attn_implementation: how to load a model given by name.

    Raises:
        HydraHeadError: the model or its tokenizer cannot be loaded, the prompt is empty or too
            long, there is no chat template, the tokenizer is another model's, or the model's
            predictions are not finite.
    """
    if isinstance(model, PreTrainedModel):
        if tokenizer is None:
            raise HydraHeadError("a loaded model needs its tokenizer", mend="pass tokenizer=")
    else:
        tokenizer = tokenizer or load_tokenizer(model)
        model = load_any_causal_lm(
            model, dtype=dtype, device=device, attn_implementation=attn_implementation
        )
    if max_new_tokens < 1:
        raise HydraHeadError(f"max_new_tokens is {max_new_tokens}", mend="give at least 1")
    ids = encode_prompt(tokenizer, prompt, chat=chat).to(model.device)
    require_room(model, ids.shape[1] + max_new_tokens, allow_long=allow_long)
    require_vocabulary(int(ids.max()), embeddings_of(model), where=name_of(model))
    settings: dict[str, Any] = {"num_beams": 1, "do_sample": False}
    if temperature > 0:
        settings |= {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    if ids.shape[1] > prefill_chunk_tokens:
        settings["prefill_chunk_size"] = prefill_chunk_tokens
    if model.generation_config is not None and model.generation_config.pad_token_id is None:
        settings["pad_token_id"] = _pad_token(model, tokenizer)
    streamer = None if on_text is None else _Streamer(tokenizer, on_text)
    start = time.perf_counter()
    with torch.random.fork_rng(devices=_cuda_devices(model)):
        torch.manual_seed(derive_seed(seed, "generate"))
        output = cast(Any, model).generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=max_new_tokens,
            cache_implementation=cache_implementation,
            return_dict_in_generate=True,
            streamer=streamer,
            logits_processor=LogitsProcessorList([FiniteLogits(model)]),
            **settings,
        )
    seconds = time.perf_counter() - start
    new = output.sequences[0, ids.shape[1] :]
    cache = getattr(output, CACHE_NAME, None)
    return GeneratedText(
        text=cast(str, tokenizer.decode(new, skip_special_tokens=True)),
        prompt_tokens=ids.shape[1],
        new_tokens=len(new),
        seconds=seconds,
        cache_bytes=cache.nbytes() if isinstance(cache, HydraCache) else None,
    )


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str, *, chat: bool = False
) -> Int[Tensor, "1 t"]:
    """The prompt's token ids, with the tokenizer's own special tokens.

    Raises:
        HydraHeadError: no chat template where one is asked for, or no token at all.
    """
    if chat:
        if not tokenizer.chat_template:
            raise HydraHeadError(
                "this model's tokenizer has no chat template", mend="leave out --chat"
            )
        encoded = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        ids = list(cast(Any, encoded)["input_ids"])
    else:
        ids = list(tokenizer(prompt)["input_ids"])
    if not ids and tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id]
    if not ids:
        raise HydraHeadError("the prompt is empty", mend="give some text")
    return torch.tensor([ids])


def require_room(model: PreTrainedModel, tokens: int, *, allow_long: bool = False) -> None:
    """Refuse more tokens than the model's context length, unless they are allowed.

    Raises:
        HydraHeadError: prompt and new tokens together are longer than the model knows.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and tokens > limit and not allow_long:
        raise HydraHeadError(
            f"prompt and new tokens are {tokens} together, the model's context is {limit}",
            mend="shorten them, or allow a longer context (--allow-long)",
        )


class _Streamer(TextStreamer):
    """Hands finished text to a callback instead of printing it."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, on_text: Callable[[str], None]) -> None:
        super().__init__(cast(Any, tokenizer), skip_prompt=True, skip_special_tokens=True)
        self._on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with every piece that will not change any more."""
        if text:
            self._on_text(text)


def _pad_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """A single row is never padded, but transformers warns without one."""
    eos = cast(Any, model.generation_config).eos_token_id
    candidates = [tokenizer.pad_token_id, *(eos if isinstance(eos, list) else [eos])]
    known = [token for token in candidates if isinstance(token, int)]
    return known[0] if known else None


def _cuda_devices(model: PreTrainedModel) -> list[torch.device]:
    return [model.device] if model.device.type == "cuda" else []


__all__ = ["GeneratedText", "encode_prompt", "generate_text", "require_room"]
