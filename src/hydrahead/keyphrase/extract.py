"""Keyphrases of files: each file is read when its turn comes, and may hold many documents."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hydrahead.core.artefacts import fingerprint, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.datasets import read_documents
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.extraction import KeyphraseExtractor
from hydrahead.keyphrase.predictions import (
    PREDICTIONS,
    predict_documents,
    read_whole_lines,
    write_predictions,
)
from hydrahead.keyphrase.readers import read_file
from hydrahead.model.hub import resolve_model_dir

KIND = "keyphrases"
_TABLES = (".jsonl", ".parquet")


def extract_files(
    model: str | Path,
    files: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    top: int | None = 10,
    device: str = "cpu",
    batch_size: int = 8,
    force: bool = False,
) -> list[dict[str, Any]]:
    """Keyphrases of files, a dictionary per document: `id` and `keyphrases`, best first.

    Args:
        model: A tagger's directory or Hugging Face name.
        files: Text, Markdown, HTML or PDF files, one document each, or .jsonl and .parquet files
            of documents.
        out: An artefact to make, `predictions.jsonl`; the same call resumes it.
        top: Phrases per document at most.
        device: Where the model runs.
        batch_size: Windows at a time.
        force: Replace an artefact of other settings.

    Raises:
        HydraHeadError: A file is missing, empty, binary, protected or damaged, or two documents
            have the same name.
    """
    names, documents = _plan([Path(file) for file in files])
    load = partial(KeyphraseExtractor.from_pretrained, model, device=device, batch_size=batch_size)
    if out is None:
        with TemporaryDirectory() as folder:
            growing = Path(folder) / PREDICTIONS
            return predict_documents(load(), documents, names, growing, top=top)
    parents = {f"file {n}": fingerprint(Path(file)) for n, file in enumerate(files, start=1)}
    with open_artefact(
        Path(out),
        kind=KIND,
        configuration={"top": top},
        parents={"model": fingerprint(resolve_model_dir(model)), **parents},
        force=force,
    ) as work:
        if work.reused:
            return read_whole_lines(work.directory / PREDICTIONS)
        growing = work.scratch / PREDICTIONS
        lines = predict_documents(load(), documents, names, growing, top=top)
        write_predictions(work.directory / PREDICTIONS, lines)
    return lines


def _plan(files: Sequence[Path]) -> tuple[list[str], list[Document | Callable[[], Document]]]:
    """Names and documents; single files are looked at now and read for good later.

    What cannot be read is refused before the first document is tagged.
    """
    names: list[str] = []
    documents: list[Document | Callable[[], Document]] = []
    for file in files:
        if file.suffix in _TABLES:
            found = read_documents(file, need_keyphrases=False)
            names += [document.id for document in found]
            documents += found
        else:
            _document(file)
            names.append(str(file))
            documents.append(partial(_document, file))
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise HydraHeadError("comes twice", where=twice, mend="give each document once")
    return names, documents


def _document(file: Path) -> Document:
    return Document(str(file), read_file(file))
