"""The whole path on a random encoder: train, save, load, extract, evaluate, and mistakes."""

import json
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_encoder import make_documents, make_text, tiny_tokenizer, write_encoder, write_jsonl

from command_line import Shell
from command_process import interrupt
from hydrahead.keyphrase import KeyphraseExtractor, train_keyphrases
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.encodings import prepare
from hydrahead.keyphrase.extraction import load_tagger
from hydrahead.keyphrase.prediction import predict
from hydrahead.keyphrase.static_vectors import lookup_in_tokens
from hydrahead.keyphrase.windows import WindowCutter

SMALL = {"width": 8, "window_tokens": 32, "lr": 5e-3, "head_lr": 2e-2, "batch_size": 4}
OPTIONS = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")][:-2]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("data") / "train.jsonl", make_documents(10))


@pytest.fixture(scope="module")
def test_data(data: Path) -> Path:
    return write_jsonl(data.with_name("test.jsonl"), make_documents(3, seed=5))


@pytest.fixture(scope="module")
def tagger(encoder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tagger") / "model"
    return train_keyphrases(encoder, data=data, out=out, settings={**SMALL, "epochs": 15})


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_keyphrases_are_learned(tagger: Path, test_data: Path) -> None:
    extractor = KeyphraseExtractor.from_pretrained(tagger)
    (document, *_) = make_documents(1, seed=5)
    found = {phrase.phrase for phrase in extractor(document["text"], top=5)}
    assert found == set(document["keyphrases"])


def test_evaluate_agrees_with_the_predictions_it_writes(
    tagger: Path, test_data: Path, tmp_path: Path, shell: Shell
) -> None:
    scores = shell.json(
        "keyphrases", "evaluate", tagger, "--data", test_data, "--out", tmp_path / "a"
    )["scores"]
    assert scores["f1@5"] > 0.9
    assert scores["tag_f1"] > 0.8
    written = tmp_path / "a" / "predictions.jsonl"
    again = shell.json(
        "keyphrases", "evaluate", written, "--data", test_data, "--out", tmp_path / "b"
    )["scores"]
    del scores["tag_f1"]
    assert again == scores


def test_training_says_what_it_did(tagger: Path) -> None:
    summary = json.loads((tagger / "training.json").read_text())
    assert len(summary["history"]) == 15
    best = max(summary["history"], key=lambda entry: entry["f1@m"])
    assert summary["best_epoch"] == best["epoch"]
    assert summary["validation"]["f1@m"] == best["f1@m"]
    assert "KeyphraseExtractor" in (tagger / "README.md").read_text()


@pytest.mark.parametrize("settings", [{}, {"neighbours": 0}, {"join": "add", "neighbours": 1}])
def test_saved_and_loaded_models_agree(
    settings: dict[str, Any], encoder: Path, data: Path, tmp_path: Path
) -> None:
    frozen = {**SMALL, "epochs": 1, "freeze_encoder": True, **settings}
    made = train_keyphrases(encoder, data=data, out=tmp_path / "a", settings=frozen)
    extractor = KeyphraseExtractor.from_pretrained(made)
    extractor.save_pretrained(tmp_path / "b")
    again = KeyphraseExtractor.from_pretrained(tmp_path / "b")
    text = make_text(random.Random(1), 100)
    np.testing.assert_array_equal(extractor.tag(text).probabilities, again.tag(text).probabilities)
    weights = load_file(encoder / "model.safetensors")
    kept = load_file(made / "model.safetensors")
    assert all(torch.equal(kept[f"encoder.{name}"], value) for name, value in weights.items())


def test_a_table_from_a_file_travels_with_the_model(
    encoder: Path, data: Path, tmp_path: Path
) -> None:
    lines = (
        f"{word} {number} {number % 3} 1\n"
        for number, word in enumerate(["gated", "delta", "memory"])
    )
    (tmp_path / "glove.txt").write_text("".join(lines))
    made = train_keyphrases(
        encoder,
        data=data,
        out=tmp_path / "a",
        vectors=tmp_path / "glove.txt",
        settings={**SMALL, "epochs": 1, "train_static": True},
    )
    assert load_tagger(made).static_words == ["gated", "delta", "memory"]
    KeyphraseExtractor.from_pretrained(made).save_pretrained(tmp_path / "b")
    assert load_tagger(tmp_path / "b").static_words == ["gated", "delta", "memory"]


def test_a_batch_of_windows_changes_nothing(tagger: Path) -> None:
    text = make_text(random.Random(2), 300)
    one = KeyphraseExtractor.from_pretrained(tagger, batch_size=1).tag(text).probabilities
    five = KeyphraseExtractor.from_pretrained(tagger, batch_size=5).tag(text).probabilities
    np.testing.assert_allclose(one, five, atol=1e-5)


def test_streamed_extraction_is_prediction(tagger: Path) -> None:
    text = make_text(random.Random(2), 300)
    extractor = KeyphraseExtractor.from_pretrained(tagger)
    tokenizer = tiny_tokenizer()
    cutter = WindowCutter(tokenizer, extractor.model.config.window_tokens)
    one = prepare(Document("a", text), cutter, lookup_in_tokens(tokenizer))
    np.testing.assert_allclose(
        extractor.tag(text).probabilities, predict(extractor.model, one), atol=1e-6
    )


def test_other_windows_are_looked_at(tagger: Path) -> None:
    extractor = KeyphraseExtractor.from_pretrained(tagger)
    head, tails = make_text(random.Random(2), 40), ("the memory " * 80, "window for " * 80)
    first, second = (extractor.tag(head + " " + tail).probabilities[:10] for tail in tails)
    assert not np.allclose(first, second, atol=1e-6)


def test_extract_reads_files_and_resumes_none(
    tagger: Path, test_data: Path, tmp_path: Path, shell: Shell
) -> None:
    page = tmp_path / "a.md"
    page.write_text("# Gated delta\n\nIt is *linear attention* with the memory.")
    arguments = ("keyphrases", "extract", tagger, page, test_data, "--out", tmp_path / "out")
    found = shell.json(*arguments, "--top", 3)["documents"]
    assert [document["id"] for document in found] == [str(page), "d5-0", "d5-1", "d5-2"]
    assert all(len(document["keyphrases"]) <= 3 for document in found)
    assert shell.json(*arguments, "--top", 3)["documents"] == found
    out, _ = shell("keyphrases", "extract", tagger, page)
    assert "keyphrase" in out


def train_words(encoder: Path, data: Path, out: Path, *more: object) -> list[str]:
    words = ("keyphrases", "train", encoder, "--data", data, "--out", out, *OPTIONS)
    return [*map(str, (*words, "--batch-size", 4, "--epochs", 3, *more))]


def test_an_interrupted_training_ends_with_the_same_bits(
    encoder: Path, data: Path, tmp_path: Path, shell: Shell
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    more = ("--set", "checkpoint_every=3", "--set", "dropout=0.2")
    shell(*train_words(encoder, data, whole, *more))
    waits = cut.with_name("cut.partial") / ".work" / "scratch" / "checkpoints" / "step-*"
    ended = interrupt(
        train_words(encoder, data, cut, *more),
        number=signal.SIGKILL,
        once=waits,
        count=9,
        folder=tmp_path,
    )
    assert ended.code == -signal.SIGKILL
    assert not cut.exists()
    shell(*train_words(encoder, data, cut, *more))
    first, second = (load_file(path / "model.safetensors") for path in (whole, cut))
    assert all(torch.equal(first[name], second[name]) for name in first)
    lines = [(path / "metrics.jsonl").read_text() for path in (whole, cut)]
    assert lines[0] == lines[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_extraction_goes_on_with_the_next_document(
    tagger: Path, tmp_path: Path, shell: Shell, number: signal.Signals
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", make_documents(4, seed=3))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    words = ["keyphrases", "extract", str(tagger), str(data), "--out"]
    shell(*words, whole)
    growing = tmp_path / "cut.partial" / ".work" / "scratch" / "predictions.jsonl"
    command = [*words, str(cut)]
    ended = interrupt(command, number=number, once=growing, count=2, folder=tmp_path)
    assert ended.code == (130 if number == signal.SIGINT else -number), ended.printed
    assert "Traceback" not in ended.printed
    assert not cut.exists()
    kept = growing.read_text().splitlines()
    assert len(kept) == 2
    # Were the two tagged anew, this mark would be gone.
    marked = {**json.loads(kept[0]), "seen": True}
    growing.write_text(json.dumps(marked) + "\n" + kept[1] + "\n" + kept[0][:20])
    found = shell.json(*command)["documents"]
    assert found[0].pop("seen")
    assert found == shell.json(*words, whole)["documents"]
    assert not growing.exists()


def test_mistakes_are_one_line(
    tagger: Path, encoder: Path, data: Path, test_data: Path, tmp_path: Path, shell: Shell
) -> None:
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "binary.txt").write_bytes(b"ab\0c")
    gold = write_jsonl(tmp_path / "gold.jsonl", make_documents(2, seed=9))
    found = write_jsonl(tmp_path / "found.jsonl", [{"id": "z", "keyphrases": ["a"]}])
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "config.json").write_text((encoder / "config.json").read_text())
    out = tmp_path / "out"
    extract = ("keyphrases", "extract", tagger)
    assert "is empty" in shell.mistake(*extract, tmp_path / "empty.txt")
    assert "is binary" in shell.mistake(*extract, tmp_path / "binary.txt", "--out", out)
    assert "comes twice" in shell.mistake(*extract, gold, gold)
    evaluate = ("keyphrases", "evaluate", found, "--data", gold, "--out", out)
    assert "no predictions for 2 documents (first: 'd9-0')" in shell.mistake(*evaluate)
    assert "is no keyphrase model" in shell.mistake("keyphrases", "extract", encoder, gold)
    train = ("keyphrases", "train", encoder, "--data", data, "--out", out)
    assert "no tokenizer" in shell.mistake("keyphrases", "train", slow, *train[3:])
    assert "is longer than this encoder reads (64)" in shell.mistake(
        *train, "--set", "window_tokens=128"
    )
    assert "adds more than 0.25 %" in shell.mistake(*train)
    assert "unknown key 'epcohs'" in shell.mistake(*train, "--set", "epcohs=2")
    assert "no number of windows" in shell.mistake(*train, "--neighbours", "some")
    assert "are in the training data too" in shell.mistake(*train, "--validation", data)
    assert "no device" in shell.mistake(*extract, gold, "--device", "tpu")
    assert not out.exists()
    assert not out.with_name("out.partial").exists()


def test_a_slow_tokenizer_is_refused(
    encoder: Path, data: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hydrahead.keyphrase import encoders

    class Slow:
        is_fast = False
        name_or_path = "some-encoder"

    monkeypatch.setattr(encoders, "load_any_tokenizer", lambda directory: Slow())
    line = shell.mistake(*train_words(encoder, data, tmp_path / "out"))
    assert "some-encoder: this encoder has no fast tokenizer" in line


@pytest.mark.slow
def test_a_million_words_in_bounded_memory(tagger: Path) -> None:
    """Peak memory over what the text and its words' arrays take does not grow with the length."""
    import resource

    extractor = KeyphraseExtractor.from_pretrained(tagger)
    rng = random.Random(0)
    names = ["".join(rng.choices("bcdfgaeiou", k=rng.randint(3, 9))) for _ in range(40_000)]
    peaks = []
    for count in (100_000, 1_000_000):
        text = " ".join(rng.choice(names) for _ in range(count))
        extractor.tag(text)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    assert peaks[1] - peaks[0] < 700, peaks
