"""Documents made ready for the tagger, and the encoder's states kept on the disk.

A frozen encoder says the same about a window in every epoch; its states of the words' first tokens
are written once, one float16 array [n d] per document, and read through a memory map.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hydrahead.core.fingerprints import hash_text
from hydrahead.core.progress import Progress
from hydrahead.keyphrase.context import DocumentContext
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.modeling import KeyphraseModel
from hydrahead.keyphrase.static_vectors import Lookup
from hydrahead.keyphrase.windows import NO_TOKEN, Window, WindowCutter


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A document in windows with the context of each."""

    document: Document
    windows: tuple[Window, ...]
    context: DocumentContext


def prepare(document: Document, cutter: WindowCutter, lookup: Lookup) -> Prepared:
    """Cut a document and count its words."""
    windows = tuple(cutter.windows(document))
    context = DocumentContext.of(document, windows, lookup)
    return Prepared(document=document, windows=windows, context=context)


def collate(windows: Sequence[Window], pad_id: int) -> dict[str, Tensor]:
    """Windows as rows of `KeyphraseModel.forward`; words without a token read position 0."""
    tokens = max(len(window.input_ids) for window in windows)
    words = max(len(window.token_of) for window in windows)
    ids = np.full((len(windows), tokens), pad_id, np.int64)
    mask = np.zeros((len(windows), tokens), np.int64)
    positions = np.zeros((len(windows), words), np.int64)
    for row, window in enumerate(windows):
        ids[row, : len(window.input_ids)] = window.input_ids
        mask[row, : len(window.input_ids)] = 1
        positions[row, : len(window.token_of)] = np.maximum(window.token_of, 0)
    named = {"input_ids": ids, "attention_mask": mask, "word_positions": positions}
    return {name: torch.from_numpy(value) for name, value in named.items()}


@torch.no_grad()
def encode_windows(
    model: KeyphraseModel, windows: Sequence[Window], *, pad_id: int, batch_size: int
) -> np.ndarray:
    """The encoder's states of all words of some windows, float16 [n d]."""
    device = next(model.encoder.parameters()).device
    kept = []
    for start in range(0, len(windows), batch_size):
        batch = windows[start : start + batch_size]
        moved = {name: value.to(device) for name, value in collate(batch, pad_id).items()}
        states = model.encode(**moved).half().cpu().numpy()
        kept += [row[: len(w.token_of)] for row, w in zip(states, batch, strict=True)]
    width = model.encoder.config.hidden_size
    return np.concatenate(kept) if kept else np.zeros((0, width), np.float16)


def encode_documents(
    model: KeyphraseModel,
    prepared: Sequence[Prepared],
    folder: Path,
    *,
    tokenizer: Any,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> list[np.ndarray]:
    """States of every document's words, from `folder` where they are, else computed and kept.

    The folder belongs to one encoder and one way of cutting; a document is known by its id and
    text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shown = progress or Progress(silent=True)
    states: list[np.ndarray] = []
    total = sum(len(one.document.spans) for one in prepared)
    task = shown.task("encode", total)
    model.encoder.eval()
    for one in prepared:
        name = hash_text(f"{one.document.id}\n{one.document.text}")[:32]
        path = folder / f"{name}.npy"
        if not path.exists():
            array = encode_windows(
                model, one.windows, pad_id=pad_id_of(tokenizer), batch_size=batch_size
            )
            partial = folder / f"{name}.{os.getpid()}.tmp"
            with partial.open("wb") as file:
                np.save(file, array)
            partial.replace(path)
        states.append(np.load(path, mmap_mode="r"))
        task.advance(len(one.document.spans))
    return states


def pad_id_of(tokenizer: Any) -> int:
    """The id that fills up rows; it is masked, so any does."""
    return int(tokenizer.pad_token_id or 0)


def known_words(window: Window) -> np.ndarray:
    """Which words of a window the encoder has read, bool [w]."""
    return window.token_of != NO_TOKEN
