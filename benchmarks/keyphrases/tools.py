"""What users pick today, on the same test documents: KeyBERT and YAKE.

python tools.py CORPUS OUT.json --encoder DIR --tools yake
python tools.py CORPUS OUT.json --encoder DIR --tools keybert --shortest 10

Needs `pip install keybert yake sentence-transformers`. Both get one to three words per phrase and
otherwise their defaults; KeyBERT gets the same encoder as the study's arms, which reads the first
256 tokens of a document and every candidate phrase: minutes per document on one CPU core, so it is
asked for the shortest documents only.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

from hydrahead.core.jsonio import write_json
from hydrahead.core.provenance import git_commit
from hydrahead.keyphrase.datasets import read_documents
from hydrahead.keyphrase.metrics import summary

TOP = 100
LISTED_BY_DEFAULT = 10
"""F1@M needs an end of the list; these tools give as many as asked for."""


def yake() -> Callable[[str], list[str]]:
    """YAKE with its defaults."""
    import yake

    extractor = yake.KeywordExtractor(lan="en", n=3, top=TOP)
    return lambda text: [phrase for phrase, _ in extractor.extract_keywords(text)]


def keybert(encoder: Path) -> Callable[[str], list[str]]:
    """KeyBERT with its defaults on the study's encoder."""
    from keybert import KeyBERT
    from sentence_transformers import SentenceTransformer

    model = KeyBERT(SentenceTransformer(str(encoder), device="cpu"))
    return lambda text: [
        phrase
        for phrase, _ in model.extract_keywords(text, keyphrase_ngram_range=(1, 3), top_n=TOP)
    ]


def main() -> None:
    """Run the tools and write their scores."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--tools", default="yake,keybert")
    parser.add_argument("--shortest", type=int, help="only so many documents, the shortest")
    given = parser.parse_args()
    documents = read_documents(given.corpus / "test.jsonl")
    documents = sorted(documents, key=lambda document: len(document.text))[: given.shortest]
    words = sum(len(document.spans) for document in documents)
    makers = {"yake": yake, "keybert": lambda: keybert(given.encoder)}
    results = json.loads(given.out.read_text()) if given.out.exists() else {}
    for name in given.tools.split(","):
        extract = makers[name]()
        started, seconds, predictions = time.monotonic(), 0.0, []
        for number, document in enumerate(documents, start=1):
            predictions.append(extract(document.text))
            seconds = time.monotonic() - started
            print(name, number, len(documents), f"{seconds:.0f} s", flush=True)
        scores, rows = summary(documents, predictions)
        short, _ = summary(documents, [found[:LISTED_BY_DEFAULT] for found in predictions])
        results[name] = {
            "git_commit": git_commit(),
            "test": {**scores, "f1@m": short["f1@m"]},
            "seconds_per_10k_words": seconds / words * 10_000,
            "by_document": rows,
        }
        write_json(given.out, results)


if __name__ == "__main__":
    main()
