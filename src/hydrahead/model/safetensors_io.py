"""The safetensors file format, read without mapping the file into memory.

A file is: header length (u64, little endian), header (JSON), data. The header maps a tensor's name
to its dtype, shape and [begin, end) in the data. Tensors are read with `preadv` straight into fresh
torch storage, so the resident memory of a process is what its tensors take: pages of a mapped 16 GB
file never count.

Invariant: a header that `read_header` returns is sound. The tensors cover the data exactly, in
ascending order, without holes or overlaps, and every size follows from dtype and shape. Anything
else is one `HydraHeadError` that names file, tensor and mend.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: dict[torch.dtype, str] = {dtype: name for name, dtype in DTYPES.items()}

_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""The safetensors library refuses longer headers too."""
_LFS_PREFIX = b"version https://git-lfs"
_AGAIN = "fetch the file again, or write it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies: `num_bytes` at `offset` (from the start of `file`)."""

    name: str
    file: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of one safetensors file, checked against the size of the file.

    Raises:
        HydraHeadError: the file is missing, unreadable, truncated or damaged.
    """
    raw, size = _raw_header(path)
    header = _parse(raw, path)
    header.pop("__metadata__", None)
    start = _LENGTH_BYTES + len(raw)
    entries = [_entry(name, value, path, start) for name, value in header.items()]
    entries.sort(key=lambda entry: (entry.offset, entry.num_bytes))
    end = start
    for entry in entries:
        if entry.offset < end:
            raise _damaged(path, f"tensor {entry.name!r} overlaps the tensor before it")
        if entry.offset > end:
            raise _damaged(
                path, f"{entry.offset - end} bytes before tensor {entry.name!r} are unused"
            )
        end = entry.offset + entry.num_bytes
        if end > size:
            raise HydraHeadError(
                f"truncated: tensor {entry.name!r} ends at byte {end}, the file has {size}",
                where=path,
                mend=_AGAIN,
            )
    if end != size:
        raise _damaged(path, f"{size - end} bytes after the last tensor")
    return {entry.name: entry for entry in entries}


def read_tensor(entry: TensorEntry) -> Tensor:
    """The tensor's values in fresh CPU memory.

    Raises:
        HydraHeadError: the file has gone, or is shorter than its header says.
    """
    return _read_bytes(entry, 0, entry.num_bytes).view(entry.dtype).reshape(entry.shape)


def read_rows(entry: TensorEntry, start: int, stop: int) -> Tensor:
    """Rows [start, stop) of the leading axis in fresh CPU memory; raises as `read_tensor` does."""
    assert 0 <= start <= stop <= entry.shape[0], f"{entry.name} has no rows {start} to {stop}"
    row_bytes = entry.num_bytes // entry.shape[0]
    flat = _read_bytes(entry, start * row_bytes, stop * row_bytes)
    return flat.view(entry.dtype).reshape(stop - start, *entry.shape[1:])


def read_pieces(entry: TensorEntry, max_bytes: int) -> Iterator[Tensor]:
    """The tensor's values as flat pieces of at most `max_bytes`; raises as `read_tensor` does."""
    step = max_bytes // entry.dtype.itemsize * entry.dtype.itemsize
    for begin in range(0, entry.num_bytes, step):
        yield _read_bytes(entry, begin, min(begin + step, entry.num_bytes)).view(entry.dtype)


def encode_header(tensors: dict[str, Tensor]) -> bytes:
    """Length and header for `tensors`, whose bytes follow in this order (padded to 8 bytes)."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.nbytes
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(_LENGTH_BYTES, "little") + raw


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _read_bytes(entry: TensorEntry, begin: int, end: int) -> Tensor:
    flat = torch.empty(end - begin, dtype=torch.uint8)
    view = flat.numpy().data
    try:
        with open(entry.file, "rb", buffering=0) as file:
            while view:
                got = os.preadv(file.fileno(), [view], entry.offset + end - len(view))
                if got == 0:
                    raise HydraHeadError(
                        f"truncated inside tensor {entry.name!r}", where=entry.file, mend=_AGAIN
                    )
                view = view[got:]
    except OSError as error:
        raise _unreadable(entry.file, error) from error
    return flat


def _raw_header(path: Path) -> tuple[bytes, int]:
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(_LENGTH_BYTES)
            length = int.from_bytes(prefix, "little")
            if (prefix + file.read(len(_LFS_PREFIX) - len(prefix))) == _LFS_PREFIX:
                raise HydraHeadError(
                    "a Git LFS pointer, not the weights",
                    where=path,
                    mend="run `git lfs pull` there",
                )
            if len(prefix) < _LENGTH_BYTES:
                raise HydraHeadError(f"truncated: only {size} bytes", where=path, mend=_AGAIN)
            if length > _MAX_HEADER_BYTES:
                raise _damaged(path, f"header length {length} is not credible")
            if _LENGTH_BYTES + length > size:
                raise HydraHeadError(
                    f"truncated: the header ends at byte {_LENGTH_BYTES + length}, "
                    f"the file has {size}",
                    where=path,
                    mend=_AGAIN,
                )
            file.seek(_LENGTH_BYTES)
            return file.read(length), size
    except OSError as error:
        raise _unreadable(path, error) from error


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except ValueError as error:
        raise _damaged(path, f"the header is not valid JSON ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "the header is not a JSON object")
    return header


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} occurs twice")
    return result


def _entry(name: str, value: Any, path: Path, start: int) -> TensorEntry:
    if not isinstance(value, dict) or {"dtype", "shape", "data_offsets"} - value.keys():
        raise _damaged(path, f"tensor {name!r} has no dtype, shape and data_offsets")
    dtype = DTYPES.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise _damaged(path, f"tensor {name!r} has unknown dtype {value['dtype']!r}")
    shape, offsets = value["shape"], value["data_offsets"]
    if not _naturals(shape) or not _naturals(offsets) or len(offsets) != 2:
        raise _damaged(path, f"tensor {name!r} has shape {shape!r}, offsets {offsets!r}")
    num_bytes = math.prod(shape) * dtype.itemsize
    if offsets[1] - offsets[0] != num_bytes:
        raise _damaged(
            path,
            f"tensor {name!r} of shape {shape} and dtype {value['dtype']} takes {num_bytes} bytes, "
            f"its offsets give {offsets[1] - offsets[0]}",
        )
    return TensorEntry(
        name=name,
        file=path,
        dtype=dtype,
        shape=tuple(shape),
        offset=start + offsets[0],
        num_bytes=num_bytes,
    )


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _damaged(path: Path, detail: str) -> HydraHeadError:
    return HydraHeadError(f"damaged safetensors file: {detail}", where=path, mend=_AGAIN)


def _unreadable(path: Path, error: OSError) -> HydraHeadError:
    return HydraHeadError(f"cannot be read: {error.strerror}", where=path, mend=_AGAIN)
