"""Hashes that tell two inputs apart.

A file of up to 64 MiB is hashed whole. A larger one (a checkpoint shard) is hashed by its size,
its first MiB (which holds a safetensors header) and 256 blocks spread evenly over the rest:
another training run changes every weight and so every block, while a copied or touched file keeps
its hash, and nothing takes minutes.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from hydrahead.core.errors import HydraHeadError

WHOLE_FILE_BYTES = 64 << 20
_HEAD_BYTES = 1 << 20
_NUM_BLOCKS = 256
_BLOCK_BYTES = 4096


def payload_files(directory: Path) -> list[str]:
    """Relative names of the files that make up a directory, sorted; hidden ones do not count."""
    return sorted(_walk(directory, ""))


def _walk(directory: Path, prefix: str) -> Iterator[str]:
    for entry in directory.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif entry.is_file():
            yield f"{prefix}{entry.name}"


def hash_text(text: str) -> str:
    """sha256 of a text, as hexadecimal."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hash_file(path: Path) -> str:
    """sha256 of a file's content, sampled when it is large (see the module's text)."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            while chunk := file.read(_HEAD_BYTES):
                digest.update(chunk)
            return digest.hexdigest()
        digest.update(f"sampled {size}\n".encode("ascii"))
        digest.update(file.read(_HEAD_BYTES))
        last = size - _BLOCK_BYTES
        for index in range(_NUM_BLOCKS):
            file.seek(_HEAD_BYTES + (last - _HEAD_BYTES) * index // (_NUM_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def hash_files(directory: Path, names: list[str]) -> str:
    """sha256 over the names and contents of some files of a directory."""
    lines = [f"{hash_file(directory / name)} {name}\n" for name in names]
    return hash_text("".join(lines))


def hash_path(path: Path) -> str:
    """sha256 of any file or directory as it is on the disk.

    Raises:
        HydraHeadError: There is nothing at `path`.
    """
    if path.is_dir():
        return hash_files(path, payload_files(path))
    if path.is_file():
        return hash_file(path)
    raise HydraHeadError("no such file or directory", where=path, mend="check the path")
