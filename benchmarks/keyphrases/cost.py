"""What attention expansion costs in a forward pass, and the memory of a very long document.

python cost.py CORPUS OUT.json --encoder DIR [--repeats 12] [--words 1000000]

Overhead: batches of windows of real test documents, one thread; the time is the thread's CPU time,
which other processes on the machine disturb least, and of each piece the minimum over the repeats
counts. An expanded tagger runs the same encoder and differs in what comes after it, so that alone
is measured for every arm and divided by the plain tagger's whole forward pass: `forward` (what the
paper reports), and `with context`, which also counts the words around the windows. Measured on the
given encoder and on one of BERT's base shape with random weights, the size the paper's encoders
have.

Memory: peak of a fresh process that tags a document made of the corpus, a tenth of --words and all
of them.
"""

import argparse
import multiprocessing
import platform
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
import torch
from study import ARMS
from transformers import BertConfig, BertModel

from hydrahead.core.jsonio import write_json
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.keyphrase.datasets import read_documents
from hydrahead.keyphrase.encoders import load_encoder
from hydrahead.keyphrase.encodings import collate, pad_id_of, prepare
from hydrahead.keyphrase.extraction import KeyphraseExtractor
from hydrahead.keyphrase.modeling import KeyphraseModel, build_model
from hydrahead.keyphrase.prediction import batch_context
from hydrahead.keyphrase.static_vectors import lookup_in_tokens
from hydrahead.keyphrase.windows import WindowCutter

MEASURED = ("w1", "w2", "all", "all add", "all 4 heads")
TOKENS = 2048
"""Of a batch: eight windows of 256 or four of 512."""


def tagger(encoder: Any, arm: str, window: int) -> KeyphraseModel:
    """An untrained tagger: time does not depend on the weights."""
    torch.manual_seed(0)
    return build_model(encoder, window_tokens=window, **ARMS[arm]).eval()


def least(repeats: int, work: Callable[[], Any]) -> float:
    """Seconds of CPU time of the fastest call."""
    best = float("inf")
    for _ in range(repeats):
        started = time.thread_time()
        work()
        best = min(best, time.thread_time() - started)
    return best


@torch.inference_mode()
def overhead(encoder: Any, tokenizer: Any, window: int, given: argparse.Namespace) -> dict:
    """Shares of the plain tagger's forward pass that each arm adds."""
    documents = read_documents(given.corpus / "test.jsonl")
    cutter, lookup = WindowCutter(tokenizer, window), lookup_in_tokens(tokenizer)
    count = TOKENS // window
    prepared = [prepare(document, cutter, lookup) for document in documents]
    prepared = [one for one in prepared if len(one.windows) >= count]
    chosen = prepared[:: max(1, len(prepared) // given.batches)][: given.batches]
    plain = tagger(encoder, "baseline", window)
    models = {arm: tagger(encoder, arm, window) for arm in MEASURED}
    totals = dict.fromkeys(MEASURED, (0.0, 0.0))
    whole = 0.0
    for one in chosen:
        inputs = collate(one.windows[:count], pad_id_of(tokenizer))
        whole += least(given.repeats, partial(plain, **inputs))
        states = plain.encode(**inputs)
        tail = least(10 * given.repeats, partial(plain.classify, states))
        for arm, model in models.items():
            make = partial(batch_context, model, one.context, range(count))
            context = make()
            assert context is not None
            classify = partial(model.classify, states, context.rows, context.log_counts)
            added = least(10 * given.repeats, classify) - tail
            gathered = least(10 * given.repeats, make)
            forward, with_context = totals[arm]
            totals[arm] = (forward + added, with_context + added + gathered)
    return {
        "window_tokens": window,
        "windows_per_batch": count,
        "encoder_parameters": plain.encoder_parameters,
        "documents": len(chosen),
        "words_median": float(np.median([len(one.document.spans) for one in chosen])),
        "distinct_words_median": float(np.median([one.context.num_words for one in chosen])),
        "plain_seconds_per_window": whole / (count * len(chosen)),
        "arms": {
            arm: {
                "width": models[arm].config.width,
                "added_share": models[arm].added_parameters / models[arm].encoder_parameters,
                "forward": forward / whole,
                "with context": with_context / whole,
            }
            for arm, (forward, with_context) in totals.items()
        },
    }


def long_text(corpus: Path, words: int) -> str:
    """Documents of the corpus, one after the other, as often as it takes."""
    documents = read_documents(corpus / "train.jsonl")
    parts: list[str] = []
    for document in cycle(documents):
        if words <= 0:
            break
        parts.append(document.text)
        words -= len(document.spans)
    return "\n".join(parts)


def peak_mib() -> float:
    """Most memory this process has held, from Linux; what getrusage says begins with its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def tag_long(sent: Any, encoder_folder: Path, file: Path) -> None:
    """In a process of its own: a peak never goes down again."""
    torch.set_num_threads(1)
    encoder, tokenizer = load_encoder(encoder_folder)
    extractor = KeyphraseExtractor(tagger(encoder, "all", 256), tokenizer)
    extractor.tag("A short text. " * 2000)
    before = peak_mib()
    started = time.thread_time()
    text = file.read_text(encoding="utf-8")
    words = len(extractor.tag(text).document.spans)
    seconds = time.thread_time() - started
    sent.put(
        {
            "words": words,
            "text_mib": len(text) / 2**20,
            "peak_mib_of_a_short_text": before,
            "peak_mib": peak_mib(),
            "cpu_seconds_per_10k_words": seconds / words * 10_000,
        }
    )


def memory(given: argparse.Namespace) -> list[dict[str, float]]:
    """Peaks for a tenth of the words and for all."""
    fresh = multiprocessing.get_context("spawn")
    rows = []
    for words in (given.words // 10, given.words):
        with NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as file:
            file.write(long_text(given.corpus, words))
            file.flush()
            sent = fresh.Queue()
            arguments = (sent, given.encoder, Path(file.name))
            process = fresh.Process(target=tag_long, args=arguments)
            process.start()
            rows.append(sent.get())
            process.join()
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--batches", type=int, default=12, help="documents, a batch of each")
    parser.add_argument("--words", type=int, default=1_000_000)
    given = parser.parse_args()
    encoder, tokenizer = load_encoder(given.encoder)
    base = BertModel(BertConfig(), add_pooling_layer=False)
    measured = {
        "all-MiniLM-L6-v2": overhead(encoder, tokenizer, 256, given),
        "BERT base shape, random weights": overhead(base, tokenizer, 512, given),
    }
    for name, result in measured.items():
        print(name, result, flush=True)
    found: dict[str, Any] = {
        "command": "python benchmarks/keyphrases/cost.py CORPUS OUT.json --encoder DIR "
        f"--repeats {given.repeats} --batches {given.batches} --words {given.words}",
        "git_commit": git_commit(),
        "hardware": f"{platform.machine()} CPU, 1 thread, CPU time of the thread",
        "versions": library_versions(),
        "n": given.repeats,
        "overhead": measured,
    }
    write_json(given.out, found)
    write_json(given.out, {**found, "memory": memory(given)})


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
