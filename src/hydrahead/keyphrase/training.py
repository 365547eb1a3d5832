"""Training a tagger: epochs over windows, the model of the best validation epoch is kept.

The loop is our own and small: the training room's knows tokens and no epochs. Checkpoints, stop
requests and the metrics file are the training room's. A run stopped anywhere and started again by
the same call ends, on the CPU, with the same bits.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hydrahead.core.artefacts import ArtefactWork, fingerprint, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.fingerprints import hash_text
from hydrahead.core.jsonio import validate, write_json, write_text
from hydrahead.core.progress import Progress
from hydrahead.keyphrase.batches import Part, lent_contexts
from hydrahead.keyphrase.card import model_card
from hydrahead.keyphrase.datasets import local_path, read_documents
from hydrahead.keyphrase.documents import Document
from hydrahead.keyphrase.encoders import load_encoder, quiet_transformers, window_tokens
from hydrahead.keyphrase.encodings import encode_documents, prepare
from hydrahead.keyphrase.fitting import Fit, FitResult
from hydrahead.keyphrase.modeling import KeyphraseModel, build_model, move
from hydrahead.keyphrase.settings import KeyphraseSettings
from hydrahead.keyphrase.static_vectors import (
    Lookup,
    lookup_in_tokens,
    lookup_in_words,
    read_vectors,
)
from hydrahead.keyphrase.windows import WindowCutter
from hydrahead.model.hub import resolve_model_dir

KIND = "keyphrase_model"
_HELD_OUT = 10
"""Without a validation split one document in so many is held out, by its id."""


def train_keyphrases(
    encoder: str | Path,
    *,
    data: str | Path,
    out: str | Path,
    validation: str | Path | None = None,
    vectors: str | Path | None = None,
    settings: Mapping[str, Any] | KeyphraseSettings | None = None,
    device: str = "cpu",
    force: bool = False,
) -> Path:
    """Train a tagger and write it as a model directory.

    Args:
        encoder: An encoder's directory or Hugging Face name.
        data: Documents with keyphrases, see `datasets`.
        out: The directory to make; the same call resumes an interrupted one.
        validation: Documents the epoch and the decoding are chosen on; a tenth of `data` if not
            given. Never the ones to be tested on.
        vectors: A word2vec or GloVe file; the encoder's input embeddings if not given.
        settings: See `KeyphraseSettings`.
        device: Where to train.
        force: Replace an artefact of other settings.

    Raises:
        HydraHeadError: Something of the above is missing, damaged or contradictory.
    """
    out = Path(out)
    if not isinstance(settings, KeyphraseSettings):
        settings = validate(KeyphraseSettings, dict(settings or {}), where="settings")
    sources = {"data": data, "validation": validation, "vectors": vectors}
    parents = {"encoder": fingerprint(resolve_model_dir(encoder))}
    for name, source in sources.items():
        if source is not None:
            path = local_path(source)
            parents[name] = str(source) if path is None else fingerprint(path)
    with open_artefact(
        out,
        kind=KIND,
        configuration={"settings": settings.model_dump(mode="json")},
        parents=parents,
        seed=settings.seed,
        force=force,
    ) as work:
        if work.reused:
            return out
        train_set, valid_set = split_documents(data, validation)
        torch.manual_seed(settings.seed)
        model, tokenizer = make_model(encoder, vectors, [*train_set, *valid_set], settings)
        move(model, device)
        with Progress() as progress:
            parts = [
                make_part(documents, model, tokenizer, settings, work.scratch, progress)
                for documents in (train_set, valid_set)
            ]
            fit = Fit(model, parts[0], parts[1], settings, tokenizer, work.scratch)
            result = fit.run(progress)
        _write(work, model, tokenizer, result, settings, str(encoder))
    return out


def split_documents(
    data: str | Path, validation: str | Path | None
) -> tuple[list[Document], list[Document]]:
    """Training and validation documents.

    Raises:
        HydraHeadError: The same id in both, or too few documents to hold any out.
    """
    documents = read_documents(data)
    if validation is not None:
        held_out = read_documents(validation)
        if both := {d.id for d in documents} & {d.id for d in held_out} and _texts_meet(
            documents, held_out
        ):
            what = f"{len(both)} of its documents are in the training data too"
            raise HydraHeadError(what, where=str(validation), mend="give other documents")
        return documents, held_out
    held_out = [d for d in documents if int(hash_text(d.id)[:8], 16) % _HELD_OUT == 0]
    rest = [d for d in documents if int(hash_text(d.id)[:8], 16) % _HELD_OUT != 0]
    if not held_out and len(documents) > 1:
        held_out, rest = documents[-1:], documents[:-1]
    if not held_out or not rest:
        raise HydraHeadError(
            f"{len(documents)} documents are too few to hold any out for validation",
            where=str(data),
            mend="give more, or --validation",
        )
    return rest, held_out


def _texts_meet(one: Sequence[Document], other: Sequence[Document]) -> set[str]:
    """Texts that are in both; ids alone may be line numbers."""
    return {hash_text(d.text) for d in one} & {hash_text(d.text) for d in other}


def make_model(
    encoder: str | Path,
    vectors: str | Path | None,
    documents: Sequence[Document],
    settings: KeyphraseSettings,
) -> tuple[KeyphraseModel, Any]:
    """A fresh tagger and its tokenizer; of a vector file only words of the data are kept."""
    backbone, tokenizer = load_encoder(encoder)
    window = window_tokens(settings.window_tokens, backbone, tokenizer)
    table = None
    if vectors is not None and settings.neighbours != 0:
        table = read_vectors(Path(vectors))
    model = build_model(
        backbone,
        vectors=table,
        vectors_name="encoder" if vectors is None else Path(vectors).name,
        width=settings.width,
        window_tokens=window,
        neighbours=settings.neighbours,
        num_expansion_heads=settings.num_expansion_heads,
        join=settings.join,
        train_static=settings.train_static,
        dropout=settings.dropout,
        max_phrase_words=settings.max_phrase_words,
    )
    if settings.freeze_encoder:
        model.encoder.requires_grad_(False)
    if not any(True for document in documents if document.keyphrases or document.tags is not None):
        raise HydraHeadError("no document has a keyphrase", mend="give data with keyphrases")
    return model, tokenizer


def lookup_of(model: KeyphraseModel, tokenizer: Any) -> Lookup:
    """How a model's static table is looked into."""
    if model.static_words is not None:
        return lookup_in_words(model.static_words)
    return lookup_in_tokens(tokenizer)


def make_part(
    documents: Sequence[Document],
    model: KeyphraseModel,
    tokenizer: Any,
    settings: KeyphraseSettings,
    folder: Path,
    progress: Progress | None = None,
) -> Part:
    """A split made ready; a frozen encoder's states are kept under `folder`."""
    cutter = WindowCutter(tokenizer, model.config.window_tokens)
    lookup = lookup_of(model, tokenizer)
    prepared = tuple(prepare(document, cutter, lookup) for document in documents)
    states = None
    if settings.freeze_encoder:
        kept = encode_documents(
            model, prepared, folder / "encodings", tokenizer=tokenizer, progress=progress
        )
        states = tuple(kept)
    return Part(
        prepared=prepared,
        labels=tuple(document.labels() for document in documents),
        states=states,
        donors=lent_contexts(prepared) if settings.control == "shuffled" else None,
    )


def _write(
    work: ArtefactWork,
    model: KeyphraseModel,
    tokenizer: Any,
    result: FitResult,
    settings: KeyphraseSettings,
    encoder: str,
) -> None:
    folder = work.directory
    model.config.threshold = result.threshold
    model.config.ranking = result.ranking
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    shutil.copy(work.scratch / "metrics.jsonl", folder)
    shares = {
        "encoder_parameters": model.encoder_parameters,
        "added_parameters": model.added_parameters,
        "added_share": model.added_parameters / model.encoder_parameters,
    }
    write_json(folder / "training.json", {**result.as_json(), **shares})
    write_text(folder / "README.md", model_card(model, result, encoder))
