"""Artefacts: every verb reads some and writes one, and any of them can be interrupted.

Work happens in `OUT.partial/`, which is renamed to `OUT/` when everything is on the disk, so an
`OUT` that exists is whole. `OUT.partial/.work/` holds the identity of what is being made (for the
same command to resume it), a lock that dies with its process, and `scratch/` for progress files;
it never becomes part of the artefact.

Invariants: a finished artefact is reused only if kind, parents, configuration and seed agree and
its files are as they were written, `force` or not; nothing but an artefact is ever replaced.
"""

import os
import shutil
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydrahead.core.disk import disk_full_named, is_disk_full, unwritable_named
from hydrahead.core.errors import HydraHeadError, UnusableInput
from hydrahead.core.jsonio import read_json, validate, write_json
from hydrahead.core.locks import exclusive
from hydrahead.core.places import refuse_inside
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.core.records import (
    IDENTITY_NAME,
    RECORD_KEY,
    RECORD_NAME,
    WORK_NAME,
    ArtefactRecord,
    Identity,
    artefact_kind,
    damage,
    directory_payload,
    fingerprint,
    make_identity,
    payload_hash,
    read_record,
    require_kind,
)

__all__ = [
    "ArtefactRecord",
    "ArtefactWork",
    "artefact_kind",
    "fingerprint",
    "open_artefact",
    "read_record",
    "require_kind",
    "write_file_artefact",
]

_FORCE = "choose another --out, or pass --force to replace it"


class ArtefactWork:
    """An artefact being made, or one that is there already; what `open_artefact` yields.

    Attributes:
        directory: Where the payload goes: `OUT.partial` while working, `OUT` if `reused`.
        reused: A finished artefact of the same identity exists; the caller returns early.
        resumed: Work of the same identity was found half done; its progress files may be there.
    """

    def __init__(self, directory: Path, *, reused: bool = False, resumed: bool = False) -> None:
        self.directory = directory
        self.reused = reused
        self.resumed = resumed
        self.backends: dict[str, str] = {}
        self._marked = False

    @property
    def scratch(self) -> Path:
        """A folder for progress files, kept for a resume and dropped at the end."""
        assert not self.reused, "a finished artefact has no scratch folder"
        folder = self.directory / WORK_NAME / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def resumable(self) -> bool:
        """Whether something is there that a resume can use."""
        scratch = self.directory / WORK_NAME / "scratch"
        return self._marked or self.resumed or (scratch.is_dir() and any(scratch.iterdir()))

    def mark_resumable(self) -> None:
        """Say that progress was saved outside `scratch`, so that an error must not remove it."""
        self._marked = True

    def note_backend(self, op: str, backend: str) -> None:
        """Record which implementation ran an op."""
        self.backends[op] = backend


@contextmanager
def open_artefact(
    out: Path,
    *,
    kind: str,
    configuration: Mapping[str, Any],
    parents: Mapping[str, Path | str] | None = None,
    seed: int | None = None,
    force: bool = False,
) -> Generator[ArtefactWork, None, None]:
    """Make the artefact directory `out`, resume it, or find that it is there already.

    On a clean exit the record is written, everything is flushed and `OUT.partial` becomes `OUT`.
    A `HydraHeadError` removes `OUT.partial` unless something in it can be resumed, an
    `UnusableInput` removes it in any case; Ctrl-C, a kill or any other error leaves it, and the
    same command resumes.

    Args:
        out: The directory to make; its parents are created.
        kind: What the artefact is ("scores", "model").
        configuration: Everything that decides the content and is not a parent; plain JSON or
            pydantic.
        parents: name -> a path (hashed by `fingerprint`), or any other string, taken as it is.
        seed: The seed of the run.
        force: Replace a finished artefact of another identity, or one that was changed since, and
            drop half-done work of another identity.

    Raises:
        HydraHeadError: `out` is something else than this artefact (names the first difference) or
            lies inside another one or a parent, another process is writing it, a parent is missing,
            or the disk is full.
    """
    out = Path(out)
    if not out.name:
        raise HydraHeadError(
            "is no name for an artefact", where=str(out), mend="choose another --out"
        )
    refuse_inside(out, (parents or {}).values())
    identity = make_identity(kind, configuration, parents or {}, seed)
    if _can_reuse(out, identity, force=force):
        yield ArtefactWork(out, reused=True)
        return
    partial = out.with_name(out.name + ".partial")
    new_parents = [parent for parent in out.parents if not parent.exists()]
    with disk_full_named(out):
        _make_work_folder(partial, out)
        with exclusive(partial / WORK_NAME / "lock", where=out):
            if _can_reuse(out, identity, force=force):  # finished since we looked
                shutil.rmtree(partial, ignore_errors=True)
                yield ArtefactWork(out, reused=True)
                return
            resumed, seconds_before = _resume_or_begin(partial, identity, out=out, force=force)
            work = ArtefactWork(partial, resumed=resumed)
            started = time.monotonic()
            try:
                yield work
                _write_record(work, identity, seconds_before + time.monotonic() - started)
                _publish(partial, out)
            except BaseException as error:
                expected = isinstance(error, HydraHeadError) or is_disk_full(error)
                if isinstance(error, UnusableInput) or (expected and not work.resumable):
                    shutil.rmtree(partial, ignore_errors=True)
                    _remove_empty(new_parents)
                else:
                    seconds = seconds_before + time.monotonic() - started
                    with suppress(OSError):  # the first error is the one to report
                        _write_identity(partial, identity, seconds)
                raise


def write_file_artefact(
    path: Path,
    *,
    kind: str,
    payload: Mapping[str, Any],
    configuration: Mapping[str, Any],
    parents: Mapping[str, Path | str] | None = None,
    seed: int | None = None,
    force: bool = False,
) -> None:
    """Write a one-file artefact `{"artifact": record, **payload}`, atomically.

    An artefact of the same identity and content is left alone.

    Raises:
        HydraHeadError: `path` is something else than this artefact or lies inside another one or
            a parent, or the disk is full.
    """
    path = Path(path)
    assert RECORD_KEY not in payload, f"{RECORD_KEY!r} is the record's own key"
    if path.is_dir():
        raise HydraHeadError("is a directory", where=path, mend="name a file with --out")
    refuse_inside(path, (parents or {}).values())
    identity = make_identity(kind, configuration, parents or {}, seed)
    if path.exists() and artefact_kind(path) is None:
        raise _not_ours(path)
    digest = payload_hash(payload)
    if path.exists() and _is_intact(path, identity, force=force):
        if read_record(path).payload_sha256 == digest:
            return
        if not force:
            raise HydraHeadError("exists with other content", where=path, mend=_FORCE)
    record = _record(identity, digest, {}, {}, 0.0)
    with unwritable_named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {RECORD_KEY: record.model_dump(mode="json"), **payload})


def _can_reuse(out: Path, identity: Identity, *, force: bool) -> bool:
    """Whether `out` is the artefact asked for; raises if it is there and may not be replaced."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / RECORD_NAME).is_file():
        raise _not_ours(out)
    if not _is_intact(out, identity, force=force):
        return False
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)  # left by a kill right after the rename
    return True


def _make_work_folder(partial: Path, out: Path) -> None:
    if partial.exists() and not (partial / WORK_NAME).is_dir():
        raise HydraHeadError("is in the way and is not ours", where=partial, mend="move it away")
    with unwritable_named(out):
        (partial / WORK_NAME).mkdir(parents=True, exist_ok=True)


def _remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that were made for an artefact that was not, innermost first."""
    with suppress(OSError):  # something else is in there
        for folder in folders:
            folder.rmdir()


def _resume_or_begin(
    partial: Path, identity: Identity, *, out: Path, force: bool
) -> tuple[bool, float]:
    """Whether half-done work of this identity is there, and the seconds already spent on it."""
    where = partial / WORK_NAME / IDENTITY_NAME
    if where.exists():
        begun = read_json(where)
        before = validate(Identity, begun["identity"], where=where)
        if before.first_difference(identity) is None:
            return True, float(begun["wall_seconds"])
        if not force:
            mend = "run the same command to resume it, or pass --force to start over"
            difference = before.first_difference(identity)
            raise HydraHeadError(
                f"is half done by another command: {difference}", where=out, mend=mend
            )
    for entry in partial.iterdir():
        if entry.name != WORK_NAME:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    shutil.rmtree(partial / WORK_NAME / "scratch", ignore_errors=True)
    _write_identity(partial, identity, 0.0)
    return False, 0.0


def _write_identity(partial: Path, identity: Identity, wall_seconds: float) -> None:
    begun = {"identity": identity.model_dump(mode="json"), "wall_seconds": wall_seconds}
    write_json(partial / WORK_NAME / IDENTITY_NAME, begun)


def _write_record(work: ArtefactWork, identity: Identity, wall_seconds: float) -> None:
    """Flush the payload to the disk and write the record that makes it an artefact."""
    (work.directory / RECORD_NAME).unlink(missing_ok=True)
    for torn in work.directory.rglob(".*.tmp"):  # a kill in the middle of `write_text`
        torn.unlink()
    digest, sizes = directory_payload(work.directory)
    for name in sizes:
        _flush(work.directory / name)
    record = _record(identity, digest, sizes, work.backends, wall_seconds)
    write_json(work.directory / RECORD_NAME, record.model_dump(mode="json"))


def _publish(partial: Path, out: Path) -> None:
    """Rename `OUT.partial` to `OUT`; an artefact that is there steps aside first."""
    replaced = out.with_name(f".{out.name}.replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if out.exists():
        out.rename(replaced)
    _flush(partial)
    partial.rename(out)
    _flush(out.parent)
    shutil.rmtree(out / WORK_NAME, ignore_errors=True)
    shutil.rmtree(replaced, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record(
    identity: Identity,
    digest: str,
    sizes: dict[str, int],
    backends: dict[str, str],
    wall_seconds: float,
) -> ArtefactRecord:
    return ArtefactRecord(
        **identity.model_dump(),
        payload_sha256=digest,
        payload_bytes=sizes,
        git_commit=git_commit(),
        library_versions=library_versions(),
        backends=dict(backends),
        wall_seconds=round(wall_seconds, 3),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _is_intact(path: Path, identity: Identity, *, force: bool) -> bool:
    """Whether the artefact at `path` is the one asked for, as it was written.

    Raises:
        HydraHeadError: it is not, and may not be replaced; names the first difference.
    """
    try:
        record = read_record(path)
        if difference := record.identity.first_difference(identity):
            raise HydraHeadError(
                f"exists and is another one: {difference}", where=path, mend=_FORCE
            )
        if wrong := damage(path, record):
            raise HydraHeadError(f"was changed after it was made: {wrong}", where=path, mend=_FORCE)
    except HydraHeadError:
        if force:
            return False
        raise
    return True


def _not_ours(path: Path) -> HydraHeadError:
    mend = "choose another --out, or move it away"
    return HydraHeadError("exists and is not a hydrahead artefact", where=path, mend=mend)
