"""Files of word vectors in the three forms people have them in."""

import struct
from pathlib import Path

import numpy as np
import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.static_vectors import lookup_in_words, read_vectors, standardised

WORDS = ["the", "gated", "Delta"]
VECTORS = np.arange(12, dtype=np.float32).reshape(3, 4) / 8


def text_lines() -> str:
    return "".join(
        f"{word} {' '.join(map(str, row))}\n"
        for word, row in zip(WORDS, VECTORS.tolist(), strict=True)
    )


def binary() -> bytes:
    rows = zip(WORDS, VECTORS, strict=True)
    return b"3 4\n" + b"".join(
        word.encode() + b" " + struct.pack("<4f", *row) + b"\n" for word, row in rows
    )


@pytest.mark.parametrize("form", ["glove.txt", "word2vec.txt", "word2vec.bin"])
def test_all_forms_are_read_alike(form: str, tmp_path: Path) -> None:
    path = tmp_path / form
    header = b"3 4\n" if form == "word2vec.txt" else b""
    path.write_bytes(binary() if form.endswith(".bin") else header + text_lines().encode())
    words, vectors = read_vectors(path)
    assert words == WORDS
    np.testing.assert_array_equal(vectors, VECTORS)


def test_only_wanted_words_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text(text_lines())
    assert read_vectors(path, wanted={"delta"})[0] == ["Delta"]


def test_words_are_looked_up_as_they_are_then_in_lower_case() -> None:
    rows = lookup_in_words(WORDS)
    assert [tuple(rows(word)) for word in ("The", "Delta", "delta", "GATED")] == [
        (1,),
        (3,),
        (),
        (2,),
    ]


def test_tables_are_standardised_behind_a_row_of_zeros() -> None:
    table = standardised(VECTORS)
    assert not table[0].any()
    np.testing.assert_allclose(table[1:].mean(axis=0), 0, atol=1e-6)
    assert np.square(table[1:]).mean() == pytest.approx(1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "holds no word vectors"),
        ("a.txt", b"the 1 2 3\ngated 1 2\n", "line 2"),
        ("a.txt", b"the 1 2 x\n", "line 1"),
        ("a.txt", b"the 1 2 nan\n", "line 1"),
        ("a.txt", b"\xff\xfe\x00", "is not text"),
        ("a.bin", binary()[:-6], "ends after 2 of 3 words"),
        ("a.bin", b"hello world again\n", "is not a binary word2vec file"),
    ],
)
def test_damaged_files_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(HydraHeadError, match=message):
        read_vectors(tmp_path / name)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="no such file"):
        read_vectors(tmp_path / "glove.txt")
