"""Scores of a tagger, or of anybody's predictions, against gold keyphrases; one artefact each."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydrahead.core.artefacts import fingerprint, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.keyphrase.datasets import local_path, read_documents
from hydrahead.keyphrase.decoding import spans_as_tags
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.extraction import KeyphraseExtractor
from hydrahead.keyphrase.metrics import TagCounts, summary
from hydrahead.keyphrase.predictions import (
    PREDICTIONS,
    predict_documents,
    read_predictions,
    write_predictions,
)
from hydrahead.model.hub import resolve_model_dir

KIND = "keyphrase_evaluation"
SCORES = "scores.json"


def evaluate_keyphrases(
    what: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    device: str = "cpu",
    batch_size: int = 8,
    force: bool = False,
) -> dict[str, Any]:
    """Score a model or a file of predictions; returns the scores.

    Args:
        what: A model's directory or Hugging Face name, or a .jsonl file of predictions.
        data: Documents with gold keyphrases, see `datasets`.
        out: The artefact to make: `scores.json`, `predictions.jsonl`.
        device: Where the model runs.
        batch_size: Windows at a time.
        force: Replace an artefact of other settings.

    Raises:
        HydraHeadError: Something is missing or damaged, or predictions and gold are not of the
            same documents.
    """
    out = Path(out)
    given = Path(what) if str(what).endswith(".jsonl") else None
    documents = read_documents(data)
    source = local_path(data)
    parents = {"data": str(data) if source is None else fingerprint(source)}
    parents["subject"] = fingerprint(given if given is not None else resolve_model_dir(what))
    with open_artefact(out, kind=KIND, configuration={}, parents=parents, force=force) as work:
        if work.reused:
            return read_json(out / SCORES)["scores"]
        if given is not None:
            scores, rows = _score_predictions(given, documents)
        else:
            extractor = KeyphraseExtractor.from_pretrained(
                what, device=device, batch_size=batch_size
            )
            names = [document.id for document in documents]
            growing = work.scratch / PREDICTIONS
            lines = predict_documents(extractor, documents, names, growing, with_spans=True)
            write_predictions(work.directory / PREDICTIONS, lines)
            scores, rows = _score_lines(documents, lines)
        write_json(work.directory / SCORES, {"scores": scores, "by_document": rows})
    return scores


def _score_lines(
    documents: Sequence[Document], lines: Sequence[dict[str, Any]]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    tags = TagCounts()
    for document, line in zip(documents, lines, strict=True):
        spans = [(first, stop) for first, stop in line["spans"]]
        tags.add(spans_as_tags(spans, len(document.spans)), document.labels())
    phrases = [[found["phrase"] for found in line["keyphrases"]] for line in lines]
    scores, rows = summary(documents, phrases)
    return {**scores, "tag_f1": tags.f1()}, rows


def _score_predictions(
    path: Path, documents: Sequence[Document]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    predictions = read_predictions(path)
    wanted = {document.id for document in documents}
    missing, extra = sorted(wanted - predictions.keys()), sorted(predictions.keys() - wanted)
    if missing or extra:
        what = (
            f"has no predictions for {len(missing)} documents (first: {missing[0]!r})"
            if missing
            else f"has predictions for {len(extra)} unknown documents (first: {extra[0]!r})"
        )
        raise HydraHeadError(what, where=path, mend="give predictions and gold with the same ids")
    return summary(documents, [predictions[document.id] for document in documents])
