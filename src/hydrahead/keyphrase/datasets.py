"""Documents with keyphrases: local JSONL or parquet, or a Hugging Face dataset by name.

A record has a text and keyphrases under the names the field's corpora use:

text        `text`, or `document` (a list of words: midas/*), or `sec_text` (lists of words by
            section: midas/ldkp3k, ldkp10k)
tags        `doc_bio_tags` or `sec_bio_tags`, one per word; found from the keyphrases if missing
keyphrases  `keyphrases`, else `extractive_keyphrases` and `abstractive_keyphrases` together, else
            what the tags say
id          `id`, `docid` or `paper_id`; else the line's number

A dataset on Hugging Face is read from its own data files or from the parquet files that the hub
makes of it; a loading script is never run.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from hydrahead.core.errors import HydraHeadError
from hydrahead.keyphrase.documents import TAGS, Document, from_words
from hydrahead.keyphrase.metrics import tag_spans

_SPLITS = {"valid": ("valid", "validation", "dev"), "validation": ("valid", "validation", "dev")}
_HUB = "hf:"


def read_documents(source: str | Path, *, need_keyphrases: bool = True) -> list[Document]:
    """All documents of a source.

    Args:
        source: A .jsonl or .parquet file, or `hf:OWNER/NAME:SPLIT` (`hf:midas/inspec:test`), with
            a configuration between if there are several (`hf:midas/ldkp3k:small:train`).
        need_keyphrases: Every document must have keyphrases or tags.

    Raises:
        HydraHeadError: Missing, empty or binary data, a record that is not as described, an id
            twice, or a dataset that cannot be fetched.
    """
    paths = _hub_files(str(source)) if str(source).startswith(_HUB) else [Path(source)]
    documents: list[Document] = []
    seen: set[str] = set()
    for path in paths:
        for where, number, fields in _records(path):
            document = document_of(fields, number=number, where=where)
            if need_keyphrases and document.keyphrases is None and document.tags is None:
                mend = 'write {"id": ..., "text": ..., "keyphrases": [...]}'
                raise HydraHeadError("has no keyphrases", where=where, mend=mend)
            if document.id in seen:
                raise HydraHeadError(f"the id {document.id!r} comes twice", where=where)
            seen.add(document.id)
            documents.append(document)
    if not documents:
        raise HydraHeadError("there is no document in it", where=str(source))
    return documents


def local_path(source: str | Path) -> Path | None:
    """The file a source names, if it is one."""
    return None if str(source).startswith(_HUB) else Path(source)


def document_of(fields: Any, *, number: int, where: str) -> Document:
    """A document from a record's fields.

    Raises:
        HydraHeadError: No text, or a field of another form than described.
    """
    if not isinstance(fields, Mapping):
        raise HydraHeadError("is not an object", where=where, mend='write {"text": ...}')
    names = ("id", "docid", "paper_id")
    identity = next((str(fields[n]) for n in names if fields.get(n) not in (None, "")), str(number))
    keyphrases = _keyphrases(fields, where)
    if isinstance(text := fields.get("text"), str):
        if not text.strip():
            raise HydraHeadError("is empty", where=where, mend="leave it out")
        return Document(identity, text, keyphrases=keyphrases)
    nested = fields.get("sec_text")
    words = list(chain.from_iterable(nested)) if _is_list(nested) else fields.get("document")
    if not _is_list(words) or not all(isinstance(word, str) for word in words):
        found = ", ".join(sorted(map(str, fields))) or "nothing"
        mend = "name the text `text`, or give a list of words as `document`"
        raise HydraHeadError(f"has no text, but {found}", where=where, mend=mend)
    tags = fields.get("doc_bio_tags")
    if _is_list(by_section := fields.get("sec_bio_tags")):
        tags = list(chain.from_iterable(by_section))
    classes = None if tags is None else _classes(tags, len(words), where)
    kept = [number for number, word in enumerate(words) if word.strip()]
    if not kept:
        raise HydraHeadError("is empty", where=where, mend="leave it out")
    spoken = [words[number] for number in kept]
    classes = None if classes is None else classes[kept]
    if keyphrases is None and classes is not None:
        keyphrases = tuple(" ".join(spoken[first:stop]) for first, stop in tag_spans(classes))
    return from_words(identity, spoken, keyphrases=keyphrases, tags=classes)


def _keyphrases(fields: Mapping[str, Any], where: str) -> tuple[str, ...] | None:
    given = fields.get("keyphrases")
    if given is None:
        parts = [fields.get(f"{kind}_keyphrases") for kind in ("extractive", "abstractive")]
        if all(part is None for part in parts):
            return None
        given = [phrase for part in parts if _is_list(part) for phrase in part]
    if not _is_list(given) or not all(isinstance(phrase, str) for phrase in given):
        raise HydraHeadError("'keyphrases' is no list of texts", where=where)
    return tuple(given)


def _classes(tags: Any, count: int, where: str) -> np.ndarray:
    if not _is_list(tags) or len(tags) != count or not set(tags) <= set(TAGS):
        raise HydraHeadError(f"needs {count} tags, each of {', '.join(TAGS)}", where=where)
    return np.array([TAGS.index(tag) for tag in tags], np.int8)


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _records(path: Path) -> Iterator[tuple[str, int, Any]]:
    """Place, number and fields of every record of a file."""
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "no such file"
        mend = "name a .jsonl or .parquet file, or hf:OWNER/NAME:SPLIT"
        raise HydraHeadError(what, where=path, mend=mend)
    if path.suffix == ".parquet":
        yield from _parquet(path)
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path} line {number}"
            try:
                yield where, number, json.loads(line)
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                mend = "give one JSON object per line"
                raise HydraHeadError(f"is not JSON ({error})", where=where, mend=mend) from None


def _parquet(path: Path) -> Iterator[tuple[str, int, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        mend = "pip install 'hydrahead[train]'"
        raise HydraHeadError("parquet needs pyarrow", where=path, mend=mend) from None
    try:
        table = parquet.ParquetFile(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise HydraHeadError(f"is not a parquet file ({error})", where=path) from None
    number = 0
    for group in range(table.num_row_groups):
        for fields in table.read_row_group(group).to_pylist():
            number += 1
            yield f"{path} row {number}", number, fields


def _hub_files(source: str) -> list[Path]:
    """The data files of one split, fetched into the cache."""
    name, *rest = source.removeprefix(_HUB).split(":")
    if name.count("/") != 1 or not 1 <= len(rest) <= 2:
        mend = "write hf:OWNER/NAME:SPLIT, for example hf:midas/inspec:test"
        raise HydraHeadError("is not the address of a dataset", where=source, mend=mend)
    split, config = rest[-1], rest[0] if len(rest) == 2 else None
    stems = _SPLITS.get(split, (split,))
    own = [f"**{stem}*{ending}" for stem in stems for ending in (".jsonl", ".json", ".parquet")]
    for revision, patterns in ((None, own), ("refs/convert/parquet", ["**.parquet"])):
        folder = _fetch(name, patterns, revision, source)
        if folder is None:
            continue
        found = [path for path in sorted(folder.rglob("*")) if path.suffix in _DATA]
        chosen = [p for p in found if _belongs(p.relative_to(folder), stems, config)]
        if chosen:
            return chosen
    raise HydraHeadError(
        f"has no data files of the split {split!r}",
        where=source,
        mend="look at its files on Hugging Face; a dataset that is only a script cannot be read",
    )


_DATA = (".jsonl", ".json", ".parquet")


def _belongs(path: Path, splits: Sequence[str], config: str | None) -> bool:
    """Whether a file is of a split (and configuration), by its own name or a folder's."""
    parts = [part.lower() for part in path.with_suffix("").parts]
    in_split = any(split in part for part in parts for split in splits)
    return in_split and (config is None or any(config.lower() in part for part in parts))


def _fetch(name: str, patterns: list[str], revision: str | None, source: str) -> Path | None:
    """The cache's folder of some of a dataset's files; None if there is no such revision."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError

    try:
        return Path(
            snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns)
        )
    except RevisionNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        mend = "check the name and the network"
        raise HydraHeadError(
            f"cannot be fetched from Hugging Face ({lines[0]})", where=source, mend=mend
        ) from error
