"""A checkpoint written again with some rows of some tensors changed, shard by shard, as a stream.

Every shard is copied in pieces; where a patch lies, its bytes are written instead. What was written
is read back from the disk and compared: sha256 over all bytes that were to stay, sha256 over all
bytes that were to change, and exact patches once more against the checkpoint they come from. Only
then does a shard count as done. Shards carry a name that nothing loads (`.part`) until all are
done, and config.json comes last, so that a kill leaves nothing that loads; the same command goes on
after the last finished shard.

Memory: one piece of a shard and one patch at a time.
"""

import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hydrahead.core.artefacts import ArtefactWork
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.core.progress import Progress, ProgressTask
from hydrahead.model.checkpoint import INDEX_FILE, SINGLE_FILE, SafetensorsReader
from hydrahead.model.safetensors_io import tensor_bytes
from hydrahead.transfer.surgery_patches import Patch, RowSource

PROGRESS_NAME = "restored_shards.json"
_PART = ".part"
_COPY_BYTES = 4 << 20
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A patch as a range of bytes of one file."""

    start: int
    stop: int
    patch: Patch

    def data(self, reader: SafetensorsReader) -> bytes:
        """The new bytes."""
        entry = reader.entry(self.patch.tensor)
        values = self.patch.values().to(entry.dtype).contiguous()
        if values.is_floating_point() and not bool(values.isfinite().all()):
            raise HydraHeadError(
                f"tensor {self.patch.tensor!r} would hold NaN or infinite values",
                where=entry.file,
                mend="use checkpoints whose training did not diverge",
            )
        return bytes(tensor_bytes(values))


class Rewrite:
    """One rewrite.

    Args:
        reader: The checkpoint that is copied.
        found: What changes in it.
        exact_from: Where the rows of exact patches come from, for the last check.
    """

    def __init__(
        self, reader: SafetensorsReader, found: Sequence[Patch], exact_from: RowSource
    ) -> None:
        self._reader = reader
        self._exact_from = exact_from
        self._changes: dict[Path, list[_Change]] = {path: [] for path in _files(reader)}
        for patch in found:
            entry = reader.entry(patch.tensor)
            row = entry.num_bytes // entry.shape[0]
            start, stop = (entry.offset + index * row for index in patch.span)
            self._changes[entry.file].append(_Change(start=start, stop=stop, patch=patch))
        for changes in self._changes.values():
            changes.sort(key=lambda change: change.start)
            for one, other in itertools.pairwise(changes):
                assert one.stop <= other.start, "two patches change the same rows"

    @property
    def num_changed_bytes(self) -> int:
        """Bytes that patches cover."""
        return sum(c.stop - c.start for changes in self._changes.values() for c in changes)

    def write(self, work: ArtefactWork, progress: Progress) -> dict[str, Any]:
        """Shards and index into the artefact; what was verified, shard by shard.

        Raises:
            HydraHeadError: the disk is too small, or gave back other bytes than were written.
        """
        log = work.scratch / PROGRESS_NAME
        done: dict[str, Any] = read_json(log) if log.exists() else {}
        sizes = {path: path.stat().st_size for path in self._changes}
        left = sum(size for path, size in sizes.items() if path.name not in done)
        _require_space(work.directory, left)
        total = sum(sizes.values())
        shown = progress.task("restore (MiB)", total // _MIB, done=(total - left) // _MIB)
        for path in self._changes:
            if path.name not in done:
                done[path.name] = self._shard(path, work.directory, shown)
                write_json(log, done)
        for path in self._changes:
            part = work.directory / f"{path.name}{_PART}"
            if part.exists():  # else a run that was stopped here has renamed it
                os.replace(part, work.directory / path.name)
        index = self._reader.directory / INDEX_FILE
        if index.exists() and SINGLE_FILE not in done:
            shutil.copyfile(index, work.directory / INDEX_FILE)
        return done

    def _shard(self, path: Path, directory: Path, shown: ProgressTask) -> dict[str, Any]:
        target = directory / f"{path.name}{_PART}"
        kept, changed = hashlib.sha256(), hashlib.sha256()
        counted = _Counted(shown)
        with path.open("rb") as source, target.open("wb") as file:
            for start, stop, change in self._segments(path):
                if change is not None:
                    data = change.data(self._reader)
                    assert len(data) == stop - start
                    changed.update(data)
                    file.write(data)
                    counted.add(len(data))
                    continue
                source.seek(start)
                for piece in _pieces(source, stop - start, path):
                    kept.update(piece)
                    file.write(piece)
                    counted.add(len(piece))
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # not on macOS
                # So that the check below reads the disk, not what we have just handed over.
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        written = {"kept_sha256": kept.hexdigest(), "changed_sha256": changed.hexdigest()}
        if self._read_back(path, target) != written:
            raise HydraHeadError(
                "what was read back is not what was written", where=target, mend="check the disk"
            )
        changes = self._changes[path]
        return {
            **written,
            "changed_bytes": sum(change.stop - change.start for change in changes),
            "tensors": sorted({change.patch.tensor for change in changes}),
        }

    def _read_back(self, path: Path, target: Path) -> dict[str, str]:
        kept, changed = hashlib.sha256(), hashlib.sha256()
        with target.open("rb") as file:
            for start, stop, change in self._segments(path):
                digest = kept if change is None else changed
                if change is None or not change.patch.exact:
                    for piece in _pieces(file, stop - start, target):
                        digest.update(piece)
                    continue
                data = b"".join(_pieces(file, stop - start, target))
                digest.update(data)
                rows = self._exact_from.rows(change.patch.tensor, change.patch.span)
                if data != tensor_bytes(rows.contiguous()):
                    raise HydraHeadError(
                        f"tensor {change.patch.tensor!r} is not PRE's after writing",
                        where=target,
                        mend="check the disk, and that PRE is not being changed",
                    )
        return {"kept_sha256": kept.hexdigest(), "changed_sha256": changed.hexdigest()}

    def _segments(self, path: Path) -> Iterator[tuple[int, int, _Change | None]]:
        """The file from front to back: ranges that stay, and changes."""
        end = 0
        for change in self._changes[path]:
            if change.start > end:
                yield end, change.start, None
            yield change.start, change.stop, change
            end = change.stop
        size = path.stat().st_size
        if size > end:
            yield end, size, None


class _Counted:
    """Bytes, shown as whole MiB."""

    def __init__(self, shown: ProgressTask) -> None:
        self._shown = shown
        self._bytes = 0

    def add(self, count: int) -> None:
        before, self._bytes = self._bytes // _MIB, self._bytes + count
        if self._bytes // _MIB > before:
            self._shown.advance(self._bytes // _MIB - before)


def _files(reader: SafetensorsReader) -> list[Path]:
    return sorted({reader.entry(name).file for name in reader.names()})


def _pieces(file: BinaryIO, count: int, path: Path) -> Iterator[bytes]:
    while count:
        piece = file.read(min(count, _COPY_BYTES))
        if not piece:
            raise HydraHeadError("was cut off while it was read", where=path, mend="start again")
        count -= len(piece)
        yield piece


def _require_space(directory: Path, needed: int) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise HydraHeadError(
            f"no space left: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            where=directory,
            mend="free some space, or choose another OUT",
        )
