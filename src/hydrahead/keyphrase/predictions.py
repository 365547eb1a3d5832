"""Predictions of many documents, in a file that an interrupted run goes on with.

`predictions.jsonl` has a line per document: `id`, `keyphrases` (see `decoding.Keyphrase`) and, for
an evaluation, the tagged spans. While it is made it lies in the artefact's scratch folder and every
line is brought to the disk; a line cut short is dropped.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.keyphrase.decoding import rank_phrases
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.extraction import KeyphraseExtractor

PREDICTIONS = "predictions.jsonl"


def predict_documents(
    extractor: KeyphraseExtractor,
    documents: Sequence[Document | Callable[[], Document]],
    names: Sequence[str],
    path: Path,
    *,
    top: int | None = None,
    with_spans: bool = False,
) -> list[dict[str, Any]]:
    """Predictions of every document, those in `path` taken from there.

    Args:
        extractor: The tagger.
        documents: Documents, or functions that read one, so that not all are held at once.
        names: Their ids.
        path: The file that grows.
        top: Phrases per document at most.
        with_spans: Keep the tagged spans (words [first, stop)) too.
    """
    done = {line["id"]: line for line in read_whole_lines(path)}
    path.write_text("".join(_line(line) for line in done.values()), encoding="utf-8")
    with path.open("a", encoding="utf-8") as file, Progress() as progress:
        task = progress.task("documents", len(names), done=len(done))
        for name, given in zip(names, documents, strict=True):
            if name in done:
                continue
            document = given() if callable(given) else given
            tagged = extractor.tag(document, progress=progress)
            ranked = rank_phrases(
                document, tagged.probabilities, tagged.spans, extractor.model.config.ranking
            )
            line: dict[str, Any] = {"id": name, "keyphrases": [asdict(p) for p in ranked[:top]]}
            if with_spans:
                line["spans"] = tagged.spans
            file.write(_line(line))
            file.flush()
            os.fsync(file.fileno())
            done[name] = line
            task.advance()
    return [done[name] for name in names]


def read_whole_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of a growing file; one cut short is the last."""
    found: list[dict[str, Any]] = []
    if path.exists():
        for text in path.read_text(encoding="utf-8").splitlines():
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                break
    return found


def write_predictions(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """The finished file."""
    path.write_text("".join(map(_line, lines)), encoding="utf-8")


def read_predictions(path: Path) -> dict[str, list[str]]:
    """Phrases by document id, best first, from anybody's file.

    A line's `keyphrases` are texts, or objects with `phrase`.

    Raises:
        HydraHeadError: The file is missing or empty, or a line is not as described.
    """
    if not path.is_file():
        raise HydraHeadError("no such file of predictions", where=path, mend="check the path")
    found: dict[str, list[str]] = {}
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path} line {number}"
            if not raw.strip():
                continue
            try:
                fields = json.loads(raw)
                phrases = [p if isinstance(p, str) else p["phrase"] for p in fields["keyphrases"]]
                found[str(fields["id"])] = [str(phrase) for phrase in phrases]
            except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
                mend = 'write {"id": ..., "keyphrases": [...]}, best first'
                what = "is not a document's predictions"
                raise HydraHeadError(what, where=where, mend=mend) from None
    if not found:
        raise HydraHeadError("is empty", where=path, mend="give predictions")
    return found


def _line(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, ensure_ascii=False) + "\n"
