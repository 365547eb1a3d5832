"""Writing a checkpoint tensor by tensor: safetensors shards and an index, as Hugging Face does.

Tensors wait in memory until a shard is full (at most `max_bytes`, or one larger tensor alone), then
the shard is written, synced and forgotten. Finished shards are listed in `shards.json` with the
groups (layers) they complete, so a writer opened again on the same directory goes on where the last
one was stopped; the list is removed when the shards get their final names.

Within a shard, tensors lie by element size, then name (as the safetensors library orders them), so
that every tensor is aligned and the same tensors always give the same bytes.
"""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from hydrahead.core.jsonio import read_json, write_json
from hydrahead.model.safetensors_io import encode_header, tensor_bytes

PROGRESS_FILE = "shards.json"
INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
MAX_SHARD_BYTES = 1 << 30


class ShardWriter:
    """Streams named tensors into `directory`.

    Args:
        directory: An existing directory; unfinished shards of an earlier writer in it are taken up.
        max_bytes: Data bytes per shard; None is `MAX_SHARD_BYTES`.
    """

    def __init__(self, directory: Path, *, max_bytes: int | None = None) -> None:
        self.directory = directory
        self.max_bytes = MAX_SHARD_BYTES if max_bytes is None else max_bytes
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = 0
        self._waiting_groups: list[str] = []
        self._shards: list[dict[str, Any]] = self._take_up()
        self._written = {name for shard in self._shards for name in shard["bytes"]}
        self.done_groups = frozenset(group for shard in self._shards for group in shard["groups"])
        """Groups that an earlier writer on this directory has finished; the caller may skip them.
        """

    @classmethod
    def resuming(cls, directory: Path, *, resumed: bool) -> "ShardWriter":
        """A writer on an artefact's work folder, which may hold shards of a stopped run.

        A run that was stopped after its shards had got their final names has left no progress
        file; those shards are written again, and removed first so that they do not fill the disk.
        """
        if resumed and not (directory / PROGRESS_FILE).exists():
            for path in (*directory.glob("*.safetensors"), directory / INDEX_FILE):
                path.unlink(missing_ok=True)
        return cls(directory)

    def add(self, name: str, tensor: Tensor) -> None:
        """Take `tensor` (any device); it must not change until the shard is written.

        Raises:
            OSError: the disk is full or fails. Nothing half-written keeps a shard's name.
        """
        assert name not in self._waiting, f"{name} added twice"
        if name in self._written:
            return
        if self._waiting and self._waiting_bytes + tensor.nbytes > self.max_bytes:
            self._flush()
        tensor = tensor.detach().to("cpu").contiguous()
        if tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor = tensor.clone()  # a view would keep the whole of its base in memory
        self._waiting[name] = tensor
        self._waiting_bytes += tensor.nbytes
        if self._waiting_bytes >= self.max_bytes:
            self._flush()

    def end_group(self, group: str) -> None:
        """Say that every tensor of `group` has been added; a later writer may then skip it."""
        if self._waiting:
            self._waiting_groups.append(group)
        elif self._shards and group not in self.done_groups:
            self._shards[-1]["groups"].append(group)
            self._save_progress()

    def close(self) -> list[Path]:
        """Write what waits, name the shards, write the index; returns the files."""
        if self._waiting or not self._shards:
            self._flush()
        num = len(self._shards)
        names = [SINGLE_FILE] if num == 1 else [_final_name(i, num) for i in range(num)]
        for shard, name in zip(self._shards, names, strict=True):
            os.replace(self.directory / shard["file"], self.directory / name)
        if num > 1:
            sizes = {name: size for shard in self._shards for name, size in shard["bytes"].items()}
            files = {
                tensor: name
                for shard, name in zip(self._shards, names, strict=True)
                for tensor in shard["bytes"]
            }
            index = {
                "metadata": {"total_size": sum(sizes.values())},
                "weight_map": dict(sorted(files.items())),
            }
            write_json(self.directory / INDEX_FILE, index)
        (self.directory / PROGRESS_FILE).unlink()
        _sync_directory(self.directory)
        return [self.directory / name for name in names]

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()

    def _flush(self) -> None:
        waiting = self._waiting
        order = sorted(waiting, key=lambda name: (-waiting[name].element_size(), name))
        tensors = {name: waiting[name] for name in order}
        file = f"shard-{len(self._shards) + 1:05d}.safetensors"
        _write_synced(self.directory / file, tensors)
        self._shards.append(
            {
                "file": file,
                "bytes": {name: tensor.nbytes for name, tensor in tensors.items()},
                "groups": self._waiting_groups,
            }
        )
        self._written.update(tensors)
        self._save_progress()
        self._waiting, self._waiting_bytes, self._waiting_groups = {}, 0, []

    def _save_progress(self) -> None:
        write_json(self.directory / PROGRESS_FILE, {"shards": self._shards})

    def _take_up(self) -> list[dict[str, Any]]:
        progress = self.directory / PROGRESS_FILE
        if not progress.exists():
            return []
        shards = read_json(progress)["shards"]
        for i, shard in enumerate(shards):
            path = self.directory / shard["file"]
            if not path.exists():  # stopped between the renames of `close`
                final = SINGLE_FILE if len(shards) == 1 else _final_name(i, len(shards))
                os.replace(self.directory / final, path)
        return shards


def _final_name(index: int, num: int) -> str:
    return f"model-{index + 1:05d}-of-{num:05d}.safetensors"


def _write_synced(path: Path, tensors: dict[str, Tensor]) -> None:
    unfinished = path.with_suffix(".tmp")
    try:
        with open(unfinished, "wb", buffering=0) as file:
            _write_all(file.fileno(), memoryview(encode_header(tensors)))
            for tensor in tensors.values():
                _write_all(file.fileno(), tensor_bytes(tensor))
            os.fsync(file.fileno())
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    os.replace(unfinished, path)


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


__all__ = ["INDEX_FILE", "MAX_SHARD_BYTES", "PROGRESS_FILE", "SINGLE_FILE", "ShardWriter"]
