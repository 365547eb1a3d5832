"""The record in every artefact: what it is, what it was made from, and with what.

Two artefacts are the same when kind, parents, configuration and seed agree; the rest of the
record (commit, versions, time) describes one run and is never compared.
"""

import json
import os
from collections.abc import Iterator, Mapping
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.fingerprints import hash_file, hash_files, hash_path, hash_text, payload_files
from hydrahead.core.jsonio import read_json, validate

FORMAT_VERSION = 1
RECORD_NAME = "artifact.json"
RECORD_KEY = "artifact"
WORK_NAME = ".work"
"""The folder in an artefact that is being made; it never becomes part of one."""
IDENTITY_NAME = "identity.json"
"""In there: what is being made."""


class Identity(BaseModel):
    """What decides whether an artefact can be reused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    parents: dict[str, str] = Field(default_factory=dict)
    configuration: dict[str, Any] = Field(default_factory=dict)
    seed: int | None = None

    def first_difference(self, other: "Identity") -> str | None:
        """The first thing in which `other` (the new request) differs, in words; None when equal."""
        before, now = self.model_dump(), other.model_dump()
        return next(_differences("", before, now), None)


class ArtefactRecord(Identity):
    """The content of `artifact.json`, or of the key `artifact` in a one-file artefact."""

    format_version: int = FORMAT_VERSION
    payload_sha256: str
    payload_bytes: dict[str, int] = Field(default_factory=dict)
    """Size of every payload file, so that damage shows without reading gigabytes."""
    git_commit: str | None
    library_versions: dict[str, str]
    backends: dict[str, str]
    """Which implementation ran each op ("gated_delta" -> "reference")."""
    wall_seconds: float
    created_at: str

    @property
    def identity(self) -> Identity:
        """The part that is compared."""
        return Identity(**self.model_dump(include=set(Identity.model_fields)))


def make_identity(
    kind: str,
    configuration: Mapping[str, Any],
    parents: Mapping[str, Path | str],
    seed: int | None,
) -> Identity:
    """The identity of an artefact about to be made: parents hashed, the rest made plain JSON."""
    plain = json.loads(json.dumps(dict(configuration), default=_as_json, allow_nan=False))
    hashes = {name: _parent_hash(parent) for name, parent in parents.items()}
    return Identity(kind=kind, parents=hashes, configuration=plain, seed=seed)


def read_record(path: Path | str) -> ArtefactRecord:
    """The record of an artefact.

    Args:
        path: An artefact directory or a one-file artefact.

    Raises:
        HydraHeadError: There is no record, it is damaged, or a newer version wrote it.
    """
    path = Path(path)
    if not path.exists():
        raise HydraHeadError("no such artefact", where=path, mend="check the path")
    if path.is_dir():
        where = path / RECORD_NAME
        if not where.exists():
            mend = "make it with one of hydrahead's verbs"
            raise HydraHeadError(f"is not an artefact (no {RECORD_NAME})", where=path, mend=mend)
        data = read_json(where)
    else:
        where = path
        data = _record_in(read_json(path))
    if not isinstance(data, dict):
        raise HydraHeadError(f"is not an artefact (no {RECORD_KEY!r} record)", where=where)
    record = cast(dict[str, Any], data)
    version = record.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        what = (
            f"was written by a newer hydrahead (format {version}, this one reads {FORMAT_VERSION})"
        )
        raise HydraHeadError(what, where=where, mend="update hydrahead")
    return validate(ArtefactRecord, record, where=where)


def artefact_kind(path: Path | str) -> str | None:
    """The kind of the artefact at `path`, or None if there is none (or not a readable one)."""
    path = Path(path)
    if path.is_file() and not starts_as_json(path):  # gigabytes of weights are not read for this
        return None
    try:
        return read_record(path).kind
    except HydraHeadError:
        return None


def starts_as_json(path: Path) -> bool:
    """Whether a file can be a JSON object, by its first character."""
    with path.open("rb") as file:
        return file.read(1) == b"{"


def refuse_half_done(path: Path | str) -> None:
    """Refuse the folder of an artefact that is still being made, or was interrupted.

    Raises:
        HydraHeadError: `path` is such a folder.
    """
    path = Path(path)
    if (path / WORK_NAME / IDENTITY_NAME).is_file() and not (path / RECORD_NAME).exists():
        mend = "give the command that makes it once more, and it goes on"
        raise HydraHeadError("is half done", where=path, mend=mend)


def refuse_other_kind(path: Path | str, kinds: tuple[str, ...], *, mend: str) -> None:
    """Refuse an artefact of none of `kinds`; what is no artefact passes.

    Raises:
        HydraHeadError: `path` is such an artefact.
    """
    kind = artefact_kind(path) if Path(path).exists() else None
    if kind is not None and kind not in kinds:
        raise HydraHeadError(f"is an artefact of kind {kind!r}", where=path, mend=mend)


def require_kind(path: Path | str, kind: str) -> ArtefactRecord:
    """The record of an artefact that has to be of one kind.

    Raises:
        HydraHeadError: It is not an artefact, or one of another kind.
    """
    record = read_record(path)
    if record.kind != kind:
        what = f"is an artefact of kind {record.kind!r}, one of kind {kind!r} is needed"
        raise HydraHeadError(what, where=path)
    return record


def payload_hash(payload: Mapping[str, Any]) -> str:
    """sha256 of a one-file artefact's payload."""
    plain = {key: value for key, value in payload.items() if key != RECORD_KEY}
    return hash_text(json.dumps(plain, sort_keys=True, allow_nan=False))


def directory_payload(directory: Path) -> tuple[str, dict[str, int]]:
    """sha256 and file sizes of a directory artefact's payload."""
    names = [name for name in payload_files(directory) if name != RECORD_NAME]
    return hash_files(directory, names), {name: (directory / name).stat().st_size for name in names}


def damage(path: Path, record: ArtefactRecord) -> str | None:
    """What is wrong with an artefact's payload, in words; None if it is as it was written."""
    if path.is_file():
        intact = payload_hash(read_json(path)) == record.payload_sha256
        return None if intact else "its content was changed"
    for name, size in record.payload_bytes.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    digest, _ = directory_payload(path)
    return None if digest == record.payload_sha256 else "its content was changed"


def fingerprint(path: Path | str) -> str:
    """The hash by which an artefact, a model directory or a data file is known as a parent.

    Of an artefact it is the hash of its payload as it is now, so that an edited plan is another
    plan.

    Raises:
        HydraHeadError: There is nothing at `path`, or a half-done artefact.
    """
    path = Path(path)
    refuse_half_done(path)
    if path.is_dir() and (path / RECORD_NAME).is_file():
        return directory_payload(path)[0]
    if path.is_file() and path.suffix == ".json":
        data = read_json(path)
        return payload_hash(data) if _record_in(data) is not None else hash_file(path)
    return hash_path(path)


def _record_in(data: Any) -> Any:
    return cast(dict[str, Any], data).get(RECORD_KEY) if isinstance(data, dict) else None


def _parent_hash(parent: Path | str) -> str:
    if isinstance(parent, Path) or os.path.exists(parent):
        return fingerprint(parent)
    return parent


def _as_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, PathLike):
        return fspath(cast("PathLike[str]", value))
    raise TypeError(f"{type(value).__name__} cannot be part of an artefact's configuration")


def _differences(place: str, before: Any, now: Any) -> Iterator[str]:
    """Every leaf in which two JSON values differ, in words, dictionaries and lists taken apart."""
    if isinstance(before, dict) and isinstance(now, dict):
        old, new = cast(dict[str, Any], before), cast(dict[str, Any], now)
        for key in dict.fromkeys([*old, *new]):
            inner = f"{place}.{key}" if place else key
            yield from _differences(inner, old.get(key), new.get(key))
    elif before != now:
        yield f"{place} was {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value)
    hexadecimal = text.strip('"')
    if len(hexadecimal) == 64 and all(letter in "0123456789abcdef" for letter in hexadecimal):
        return hexadecimal[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."
