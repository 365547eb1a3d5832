"""Loading an encoder with its tokenizer, and finding out what it can read."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel, PreTrainedModel
from transformers.utils import logging

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.windows import require_fast
from hydrahead.model.hub import resolve_model_dir
from hydrahead.model.loading import load_tokenizer as load_any_tokenizer

_USUAL_WINDOW = 512
_UNBOUNDED = 10**6
"""Tokenizers without a limit say something like 1e30."""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No bars and remarks of transformers on stderr: a pooling layer left out is on purpose."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def load_tokenizer(directory: Path) -> Any:
    """The tokenizer beside a model.

    Raises:
        HydraHeadError: There is none, it is damaged, or it is a slow one.
    """
    with quiet_transformers():
        tokenizer = load_any_tokenizer(directory)
    require_fast(tokenizer)
    return tokenizer


def load_encoder(model: str | Path) -> tuple[PreTrainedModel, Any]:
    """An encoder and its tokenizer, from a directory or a Hugging Face name; float32.

    Raises:
        HydraHeadError: It cannot be found, is no encoder, or has no fast tokenizer.
    """
    directory = resolve_model_dir(model)
    tokenizer = load_tokenizer(directory)
    try:
        config = AutoConfig.from_pretrained(directory)
        kind = AutoModel._model_mapping[type(config)]
    except (OSError, ValueError, KeyError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HydraHeadError(
            f"is no encoder that transformers knows ({lines[0]})", where=directory
        ) from error
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        mend = "choose an encoder such as distilbert-base-uncased"
        raise HydraHeadError(f"{config.model_type} is no plain encoder", where=directory, mend=mend)
    kind = kind[0] if isinstance(kind, tuple) else kind
    has_pooler = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    extra = {"add_pooling_layer": False} if has_pooler else {}
    try:
        with quiet_transformers():
            encoder = AutoModel.from_pretrained(directory, dtype="float32", **extra)
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise HydraHeadError(f"cannot be loaded ({lines[0]})", where=directory) from error
    return encoder, tokenizer


def longest_window(encoder: PreTrainedModel, tokenizer: Any) -> int | None:
    """Tokens an encoder can read at once; None if nothing says so."""
    config: Any = encoder.config
    limits = [tokenizer.model_max_length] if tokenizer.model_max_length < _UNBOUNDED else []
    if positions := getattr(config, "max_position_embeddings", None):
        # RoBERTa counts positions from its padding's number on.
        offset = config.pad_token_id + 1 if "roberta" in config.model_type else 0
        limits.append(positions - offset)
    return min(limits, default=None)


def window_tokens(asked: int | None, encoder: PreTrainedModel, tokenizer: Any) -> int:
    """The window to use.

    Raises:
        HydraHeadError: The one asked for is longer than the encoder can read.
    """
    limit = longest_window(encoder, tokenizer)
    if asked is None:
        return min(_USUAL_WINDOW, limit or _USUAL_WINDOW)
    if limit is not None and asked > limit:
        raise HydraHeadError(
            f"a window of {asked} tokens is longer than this encoder reads ({limit})",
            where="window_tokens",
            mend=f"choose {limit} or less",
        )
    return asked
