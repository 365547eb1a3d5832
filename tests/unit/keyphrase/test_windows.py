"""Documents in windows and in contexts: nothing lost, nothing twice."""

import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from tiny_encoder import make_text, tiny_tokenizer

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.context import ALL, DocumentContext
from hydrahead.keyphrase.documents import Document, from_words, tag_words
from hydrahead.keyphrase.static_vectors import PAD, lookup_in_tokens, lookup_in_words
from hydrahead.keyphrase.windows import NO_TOKEN, WindowCutter

TEXT = (
    make_text(random.Random(3), 200) + " Sys.path is in-place; don't (C++) \u00e9t\u00e9 foo_bar!"
)


@pytest.mark.parametrize("window_tokens", [5, 16, 64])
def test_windows_hold_every_word_once_and_fit(window_tokens: int) -> None:
    tokenizer = tiny_tokenizer()
    document = Document("a", TEXT)
    windows = list(WindowCutter(tokenizer, window_tokens).windows(document))
    assert [w.first for w in windows] == [0, *(w.stop for w in windows[:-1])]
    assert windows[-1].stop == len(document.spans)
    for window in windows:
        assert len(window.input_ids) <= window_tokens
        for offset, position in enumerate(window.token_of):
            token = tokenizer.convert_ids_to_tokens(int(window.input_ids[position]))
            word = document.word(window.first + offset).lower()
            assert token == "[UNK]" or word.startswith(token) or not word.isascii()


def test_windows_are_filled() -> None:
    tokenizer = tiny_tokenizer()
    windows = list(WindowCutter(tokenizer, 16).windows(Document("a", TEXT)))
    longest_word = 12
    assert all(len(window.input_ids) > 16 - longest_word for window in windows[:-1])


def test_a_word_longer_than_a_window_is_a_window() -> None:
    document = Document("a", "is " + "bacada" * 12 + " is")
    windows = list(WindowCutter(tiny_tokenizer(), 8).windows(document))
    assert windows[-1].stop == 3
    assert max(len(window.input_ids) for window in windows) == 8
    assert windows[-1].token_of[-1] != NO_TOKEN


def test_no_words_no_windows() -> None:
    assert not list(WindowCutter(tiny_tokenizer(), 8).windows(Document("a", "  ")))


def test_a_window_without_room_is_refused() -> None:
    with pytest.raises(HydraHeadError, match="holds no word"):
        WindowCutter(tiny_tokenizer(), 2)


def test_given_words_are_kept() -> None:
    document = from_words("a", ["x y", "z", "..."])
    assert list(document.words()) == ["x y", "z", "..."]


def test_keyphrases_are_found_by_stems_longest_first() -> None:
    text = "Neural networks: a network, the neural network's neural-network."
    document = Document("a", text)
    labels = tag_words(document, ["neural network", "network"])
    marked = {document.word(i): int(labels[i]) for i in range(len(labels)) if labels[i]}
    assert marked["Neural"] == 1
    assert marked["networks"] == 2
    assert marked["network"] == 1
    assert marked["neural-network"] == 1
    assert labels[document.text[:20].count(" ")] != 1


def test_a_keyphrase_never_ends_inside_a_word() -> None:
    document = Document("a", "path sys.path path")
    assert tag_words(document, ["path"]).tolist() == [1, 0, 1]


def brute_force(words: list[list[str]], window: int, neighbours: int) -> Counter[str]:
    last = len(words) if neighbours == ALL else window + neighbours + 1
    first = 0 if neighbours == ALL else max(0, window - neighbours)
    return Counter(w for i in range(first, min(last, len(words))) if i != window for w in words[i])


@pytest.mark.parametrize("neighbours", [1, 2, ALL])
def test_contexts_are_the_words_of_the_other_windows(neighbours: int) -> None:
    rng = random.Random(0)
    vocabulary = ["a", "b", "c", "d", "e"]
    words = [rng.choices(vocabulary, k=rng.randint(1, 6)) for _ in range(6)]
    context = DocumentContext(lookup_in_words(["a", "b", "c", "d"]))  # e has no vector
    for window in words:
        context.add([*window, ","])
    for window in range(6):
        batch = context.batch([window], neighbours)
        wanted = brute_force(words, window, neighbours)
        del wanted["e"]
        found = {
            "abcd"[int(row) - 1]: round(math.exp(count))
            for row, count in zip(batch.rows[:, 0], batch.log_counts[0], strict=True)
        }
        assert found == dict(wanted)


def test_the_only_window_has_no_context() -> None:
    context = DocumentContext(lookup_in_words(["a"]))
    context.add(["a", "a"])
    assert context.batch([0], ALL).rows.shape[0] == 0


def test_windows_added_later_count() -> None:
    context = DocumentContext(lookup_in_words(["a"]))
    context.add(["a"])
    context.add(["a"])
    assert context.batch([0], ALL).log_counts.exp().round().tolist() == [[1.0]]
    context.add(["a"])
    assert context.batch([0], ALL).log_counts.exp().round().tolist() == [[2.0]]


def test_words_of_several_tokens_have_several_rows() -> None:
    tokenizer = tiny_tokenizer()
    rows = lookup_in_tokens(tokenizer)("bacada")
    assert tokenizer.convert_ids_to_tokens([row - 1 for row in rows]) == ["ba", "##ca", "##da"]
    context = DocumentContext(lookup_in_tokens(tokenizer))
    context.add(["is"])
    context.add(["bacada", "is"])
    batch = context.batch([0], ALL)
    assert (batch.rows != PAD).sum(dim=1).tolist() == [1, 3]
    assert batch.rows.dtype == torch.int64
    assert np.isfinite(batch.log_counts.numpy()).all()
