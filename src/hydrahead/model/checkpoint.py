"""A checkpoint directory as a table of tensors: one safetensors file, or shards and an index.

Opening reads and checks every header, so a checkpoint that lacks a file, a shard or a tensor, or
that was cut off, is refused before any work is done. Weights come from safetensors only: a pickled
`pytorch_model.bin` can run code when it is opened, and is refused with the way to convert it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError, UnusableInput
from hydrahead.core.jsonio import read_json
from hydrahead.model.safetensors_io import (
    DTYPE_NAMES,
    TensorEntry,
    read_header,
    read_pieces,
    read_tensor,
)
from hydrahead.model.shard_writer import INDEX_FILE, SINGLE_FILE, ShardWriter

WEIGHT_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)

_AGAIN = "fetch the checkpoint again"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SHOWN = 4
_CHECK_ELEMENTS = 1 << 24
_PIECE_BYTES = 1 << 26


class SafetensorsReader:
    """The tensors of a checkpoint directory.

    Args:
        directory: Holds `model.safetensors`, or `model.safetensors.index.json` and its shards.
            Other safetensors files in it (Mistral's `consolidated.safetensors`) are not looked at.

    Raises:
        HydraHeadError: no safetensors weights there, or any of them is missing, truncated or
            damaged.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._entries = _read_entries(directory)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> tuple[str, ...]:
        """Every tensor, sorted."""
        return tuple(sorted(self._entries))

    def entry(self, name: str) -> TensorEntry:
        """File, dtype and shape of one tensor."""
        if name not in self._entries:
            raise _missing([name], self.directory)
        return self._entries[name]

    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(entry.num_bytes for entry in self._entries.values())

    def check(self, expected: Mapping[str, tuple[int, ...]], *, ignore: str | None = None) -> None:
        """Hold the checkpoint against the names and shapes the model needs.

        Args:
            expected: Tensor name -> shape.
            ignore: Regular expression of further tensors that may be there and are not used.

        Raises:
            HydraHeadError: a tensor is missing, superfluous, of another shape, or not a
                floating-point weight (quantised checkpoints store integers or 8-bit floats).
        """
        missing = [name for name in expected if name not in self._entries]
        if missing:
            raise _missing(missing, self.directory)
        for name, shape in expected.items():
            entry = self._entries[name]
            if entry.shape != tuple(shape):
                raise HydraHeadError(
                    f"tensor {name!r} has shape {list(entry.shape)}, "
                    f"config.json asks for {list(shape)}",
                    where=entry.file,
                    mend="use the config.json that belongs to these weights",
                )
            if entry.dtype not in WEIGHT_DTYPES:
                raise HydraHeadError(
                    f"tensor {name!r} has dtype {DTYPE_NAMES[entry.dtype]}, not a float weight",
                    where=entry.file,
                    mend="use an unquantised checkpoint (bf16, fp16 or fp32)",
                )
        extra = [name for name in self.names() if name not in expected]
        extra = [name for name in extra if ignore is None or not re.search(ignore, name)]
        if extra:
            raise HydraHeadError(
                f"the architecture in config.json does not have {_some(extra, 'tensor')}",
                where=self._entries[extra[0]].file,
                mend="check model_type and the bias settings in config.json",
            )

    def read(self, name: str, *, check_finite: bool = True) -> Tensor:
        """One tensor in fresh CPU memory, in its stored dtype.

        Raises:
            HydraHeadError: no such tensor, the file was cut off since it was opened, or (with
                `check_finite`) the tensor holds NaN or infinite values.
        """
        entry = self.entry(name)
        tensor = read_tensor(entry)
        if check_finite and tensor.is_floating_point():
            _check_finite(tensor, entry)
        return tensor

    def same(self, one: str, other: str) -> bool:
        """Whether two stored tensors hold the same values; reads a piece of each at a time."""
        first, second = self.entry(one), self.entry(other)
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        pieces = zip(
            read_pieces(first, _PIECE_BYTES), read_pieces(second, _PIECE_BYTES), strict=True
        )
        return all(torch.equal(a, b) for a, b in pieces)


def _read_entries(directory: Path) -> dict[str, TensorEntry]:
    if not directory.is_dir():
        raise HydraHeadError(
            "no such directory", where=directory, mend="give a checkpoint directory"
        )
    if (directory / SINGLE_FILE).exists():
        return read_header(directory / SINGLE_FILE)
    if (directory / INDEX_FILE).exists():
        return _read_indexed(directory)
    raise _no_weights(directory)


def _read_indexed(directory: Path) -> dict[str, TensorEntry]:
    index = directory / INDEX_FILE
    content = read_json(index)
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(weight_map, dict) or not all(isinstance(f, str) for f in weight_map.values()):
        raise HydraHeadError("damaged index: no weight_map of names", where=index, mend=_AGAIN)
    files = sorted(set(weight_map.values()))
    for file in files:
        parts = PurePosixPath(file)
        if parts.is_absolute() or ".." in parts.parts:
            raise HydraHeadError(
                f"shard {file!r} lies outside the directory", where=index, mend=_AGAIN
            )
    missing = [file for file in files if not (directory / file).exists()]
    if missing:
        raise HydraHeadError(
            f"of {len(files)} shards there is no {_some(missing)}",
            where=index,
            mend=_AGAIN,
        )
    entries: dict[str, TensorEntry] = {}
    for file in files:
        found = read_header(directory / file)
        named = {name for name, shard in weight_map.items() if shard == file}
        if named - found.keys():
            name = min(named - found.keys())
            raise HydraHeadError(
                f"tensor {name!r} is not in shard {file}, where the index places it",
                where=index,
                mend=_AGAIN,
            )
        twice = entries.keys() & found.keys()
        if twice:
            name = min(twice)
            raise HydraHeadError(
                f"tensor {name!r} is also in {entries[name].file.name}",
                where=directory / file,
                mend=_AGAIN,
            )
        entries.update(found)
    return entries


def _no_weights(directory: Path) -> HydraHeadError:
    pickles = _glob(directory, _PICKLES)
    if pickles:
        return HydraHeadError(
            f"the weights are pickled ({pickles[0]}); a pickle can run code, so only "
            "safetensors are read",
            where=directory,
            mend="on a machine where you trust the file: "
            "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW_DIR)",
        )
    shards = _glob(directory, ("*.safetensors",))
    if shards:
        return HydraHeadError(
            f"neither {SINGLE_FILE} nor {INDEX_FILE}, only {_some(shards)}",
            where=directory,
            mend=f"fetch {INDEX_FILE} as well, or name a single file {SINGLE_FILE}",
        )
    return HydraHeadError(
        f"no weights: neither {SINGLE_FILE} nor {INDEX_FILE}", where=directory, mend=_AGAIN
    )


def _glob(directory: Path, patterns: Iterable[str]) -> list[str]:
    return sorted(path.name for pattern in patterns for path in directory.glob(pattern))


def _check_finite(tensor: Tensor, entry: TensorEntry) -> None:
    # A sum is one pass without temporaries, and any NaN or infinity survives it; the exact look
    # comes only where it is not finite (finite values may overflow it). Pieces keep the temporaries
    # small.
    for piece in tensor.reshape(-1).split(_CHECK_ELEMENTS):
        if not torch.isfinite(piece.sum(dtype=torch.float32)) and not torch.isfinite(piece).all():
            num = sum(
                int((~torch.isfinite(p)).sum()) for p in tensor.reshape(-1).split(_CHECK_ELEMENTS)
            )
            raise UnusableInput(
                f"tensor {entry.name!r} holds {num} NaN or infinite values of {tensor.numel()}",
                where=entry.file,
                mend="use a checkpoint whose training did not diverge",
            )


def _missing(names: list[str], directory: Path) -> HydraHeadError:
    return HydraHeadError(
        f"missing {_some(names, 'tensor')}",
        where=directory,
        mend="fetch the checkpoint again, or check that config.json belongs to it",
    )


def _some(names: list[str], kind: str = "") -> str:
    shown = ", ".join(names[:_SHOWN])
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    plural = kind and (f"{kind} " if len(names) == 1 else f"{kind}s ")
    return f"{plural}{shown}{more}"


__all__ = ["INDEX_FILE", "SINGLE_FILE", "WEIGHT_DTYPES", "SafetensorsReader", "ShardWriter"]
