"""Static word vectors: from word2vec or GloVe files, or the encoder's own input embeddings.

A word's vector is the mean of one or several rows of a table: one row of a file's table (the word
as it is, else in lower case), or the rows of the word's tokens in the encoder's. Words without a
row are left out of every context rather than standing there as zeros, which would still take
attention. All tables are brought to zero mean per column and unit root mean square, so that the
same learning rate fits any of them.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json

PAD = 0
"""The row that fills up words of fewer rows; it counts for nothing."""
WORDS_FILE = "static_words.json"
MAX_ROWS = 8
"""Tokens of a word that are looked at; identifiers have dozens."""

Lookup = Callable[[str], Sequence[int]]
"""Rows of a word; row 0 is the padding's."""


class StaticEmbedding(nn.Module):
    """Table of static vectors; frozen unless training them was asked for."""

    def __init__(self, rows: int, width: int, *, trainable: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(rows, width), requires_grad=trainable)

    def forward(self, rows: Int[Tensor, "m s"]) -> Float[Tensor, "m e"]:
        """Mean of each word's rows."""
        used = rows != PAD
        gathered = nn.functional.embedding(rows, self.weight) * used[..., None]
        return gathered.sum(dim=1) / used.sum(dim=1, keepdim=True).clamp(min=1)


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Zero mean per column, unit root mean square, a row of zeros (the padding) in front."""
    centred = vectors - vectors.mean(axis=0, keepdims=True)
    scale = float(np.sqrt(np.mean(np.square(centred)))) or 1.0
    return np.concatenate([np.zeros((1, vectors.shape[1])), centred / scale]).astype(np.float32)


def lookup_in_words(words: Sequence[str]) -> Lookup:
    """Rows by the words of a file."""
    number = {word: row for row, word in enumerate(words, start=1)}

    def rows(word: str) -> Sequence[int]:
        row = number.get(word) or number.get(word.lower())
        return () if row is None else (row,)

    return rows


def lookup_in_tokens(tokenizer: Any) -> Lookup:
    """Rows by the tokens of an encoder's tokenizer; token t is row t + 1."""

    @functools.lru_cache(maxsize=1 << 17)
    def rows(word: str) -> Sequence[int]:
        # A leading space: to byte-level tokenizers a word in running text starts with one.
        ids = tokenizer(" " + word, add_special_tokens=False, verbose=False)["input_ids"]
        return tuple(i + 1 for i in ids[:MAX_ROWS] if i != tokenizer.unk_token_id)

    return rows


def pad_rows(rows: Sequence[Sequence[int]]) -> np.ndarray:
    """Rows of several words as one array [m s], filled up with `PAD`."""
    width = max(map(len, rows), default=1)
    padded = np.full((len(rows), width), PAD, np.int64)
    for number, row in enumerate(rows):
        padded[number, : len(row)] = row
    return padded


def read_vectors(path: Path, *, wanted: set[str] | None = None) -> tuple[list[str], np.ndarray]:
    """Words and vectors [n e] of a word2vec (text or binary) or GloVe (text) file.

    Args:
        path: The file; `.bin` is word2vec's binary form, anything else text.
        wanted: Words to keep, compared in lower case (None: all), so that a file of millions does
            not have to fit.

    Raises:
        HydraHeadError: The file is missing, empty, cut short, or lines differ in length.
    """
    if not path.is_file():
        raise HydraHeadError("no such file of word vectors", where=path, mend="check the path")
    reader = _read_binary if path.suffix == ".bin" else _read_text
    words: list[str] = []
    vectors: list[np.ndarray] = []
    for word, vector in reader(path):
        if wanted is None or word.lower() in wanted:
            words.append(word)
            vectors.append(vector)
    if not words:
        what = "holds no word vectors" if wanted is None else "has none of the words of the data"
        raise HydraHeadError(what, where=path, mend="give a word2vec or GloVe file")
    return words, np.stack(vectors)


def _read_text(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    width: int | None = None
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path} line {number}"
            try:
                parts = raw.decode("utf-8").rstrip().split(" ")
            except UnicodeDecodeError:
                mend = "name a binary word2vec file .bin"
                raise HydraHeadError("is not text", where=where, mend=mend) from None
            if number == 1 and len(parts) == 2 and all(part.isdigit() for part in parts):
                width = int(parts[1])  # word2vec's header: how many, how wide
                continue
            width = width or len(parts) - 1
            # A few GloVe words contain spaces: the numbers are the last ones.
            word = " ".join(parts[:-width])
            try:
                vector = np.array([float(part) for part in parts[-width:]], np.float32)
            except ValueError:
                vector = np.empty(0, np.float32)
            if not word or len(vector) != width or not np.isfinite(vector).all():
                mend = "the file may be cut short: get it again"
                raise HydraHeadError(f"is not a word and {width} numbers", where=where, mend=mend)
            yield word, vector


def _read_binary(path: Path) -> Iterable[tuple[str, np.ndarray]]:
    mend = "the file may be cut short: get it again"
    with path.open("rb") as file:
        header = file.readline(64).split()
        if len(header) != 2 or not all(part.isdigit() for part in header):
            raise HydraHeadError("is not a binary word2vec file", where=path, mend=mend)
        count, width = map(int, header)
        for number in range(count):
            word = bytearray()
            while (byte := file.read(1)) not in (b" ", b""):
                word += byte
            raw = file.read(4 * width)
            if len(raw) != 4 * width:
                what = f"ends after {number} of {count} words"
                raise HydraHeadError(what, where=path, mend=mend)
            yield word.decode("utf-8", errors="replace").lstrip("\n"), np.frombuffer(raw, "<f4")


def save_words(folder: Path, words: Sequence[str]) -> None:
    """Write the words of a file's table beside the model."""
    write_json(folder / WORDS_FILE, list(words))


def load_words(folder: Path) -> list[str]:
    """The words `save_words` wrote.

    Raises:
        HydraHeadError: The file is missing or damaged.
    """
    words = read_json(folder / WORDS_FILE)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise HydraHeadError("is not a list of words", where=folder / WORDS_FILE)
    return words
