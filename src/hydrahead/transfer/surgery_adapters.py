"""LoRA adapters as fine-tuned checkpoints: W(post) = W(pre) + scale B A (arXiv 2106.09685).

The files are peft's (`adapter_config.json`, `adapter_model.safetensors`); peft itself is not
needed. An adapter that left W_Q and W_K of the full-attention units alone would be the restored
model, so a restoration either drops its part on them (the rows of B that belong to them become 0,
and an adapter whose whole B is 0 leaves the file) or merges the rest into the base checkpoint. Both
compute the same.

Supported: plain LoRA on linear layers (rank and alpha patterns, rsLoRA), and modules saved whole.
Anything else (DoRA, embeddings, biases, other methods) changes more than B A and is refused.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json
from hydrahead.model.checkpoint import (
    INDEX_FILE,
    SINGLE_FILE,
    WEIGHT_DTYPES,
    SafetensorsReader,
)
from hydrahead.model.safetensors_io import (
    DTYPE_NAMES,
    TensorEntry,
    read_header,
    read_rows,
    read_tensor,
)
from hydrahead.transfer.surgery_patches import PIECE_BYTES, Patch
from hydrahead.transfer.surgery_rows import Span

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_REFUSED = {
    "use_dora": "DoRA scales the columns of W as well",
    "fan_in_fan_out": "weights stored transposed are not supported",
    "trainable_token_indices": "single trained embeddings are not supported",
    "layer_replication": "replicated layers are not supported",
    "megatron_config": "Megatron adapters are not supported",
    "target_parameters": "adapters of bare parameters are not supported",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """The change of one linear layer."""

    module: str
    a: TensorEntry
    """[r, d_in]"""
    b: TensorEntry
    """[d_out, r]"""
    scale: float

    def rows(self, span: Span) -> Tensor:
        """Some rows of scale B A, in fp64."""
        return self.scale * (read_rows(self.b, *span).double() @ read_tensor(self.a).double())


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter on disk, checked against the checkpoint it belongs to."""

    directory: Path
    config: dict[str, Any]
    low_rank: Mapping[str, LowRank]
    """Module -> its change."""
    saved: Mapping[str, TensorEntry]
    """Tensor of the base -> the one that replaces it whole."""


class AdaptedRows:
    """The rows of the base with an adapter merged in: the post checkpoint, never written."""

    def __init__(self, base: SafetensorsReader, adapter: Adapter) -> None:
        self._base = base
        self._adapter = adapter

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._base

    def shape(self, name: str) -> tuple[int, ...]:
        """Of one tensor."""
        return self._base.entry(name).shape

    def rows(self, name: str, span: Span) -> Tensor:
        """Some rows; in fp64 where a low-rank change was added, else as stored."""
        if name in self._adapter.saved:
            return read_rows(self._adapter.saved[name], *span)
        rows = read_rows(self._base.entry(name), *span)
        change = self._adapter.low_rank.get(name.removesuffix(".weight"))
        if change is None or not name.endswith(".weight"):
            return rows
        return rows.double() + change.rows(span)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter rather than a model."""
    weights = (SINGLE_FILE, INDEX_FILE)
    whole = any((directory / name).is_file() for name in weights)
    return (directory / CONFIG_FILE).is_file() and not whole


def open_adapter(directory: Path, base: SafetensorsReader) -> Adapter:
    """Read an adapter and check that it fits `base`.

    Raises:
        HydraHeadError: another method than plain LoRA, missing files, or a module or shape that
            the base does not have (named).
    """
    where = directory / CONFIG_FILE
    config = read_json(where)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise HydraHeadError(
            f"an adapter of type {kind!r}, only LORA is supported",
            where=where,
            mend="merge it with its own tool and give the merged checkpoint as POST",
        )
    for key, why in _REFUSED.items():
        if config.get(key):
            raise HydraHeadError(f"{key} is set: {why}", where=where, mend=_MERGE_ELSEWHERE)
    if config.get("bias", "none") != "none":
        raise HydraHeadError("trained biases are not supported", where=where, mend=_MERGE_ELSEWHERE)
    stored = read_header(directory / WEIGHTS_FILE)
    low_rank: dict[str, LowRank] = {}
    saved: dict[str, TensorEntry] = {}
    for name, entry in sorted(stored.items()):
        bare = _bare(name, entry)
        if bare.endswith(".lora_A.weight"):
            module = bare.removesuffix(".lora_A.weight")
            low_rank[module] = _low_rank(module, name, stored, config, base)
        elif not bare.endswith(".lora_B.weight"):
            saved[bare] = _saved(bare, entry, base)
        elif name.replace("lora_B", "lora_A") not in stored:
            raise HydraHeadError(
                f"tensor {name!r} has no lora_A beside it", where=entry.file, mend=_AGAIN
            )
    return Adapter(directory=directory, config=config, low_rank=low_rank, saved=saved)


def merge_patches(
    adapter: Adapter, base: SafetensorsReader, rows: AdaptedRows, kept: Mapping[str, list[Span]]
) -> Iterator[Patch]:
    """Patches that merge the adapter into the base, but for the rows in `kept`."""
    names = {*adapter.saved, *(f"{module}.weight" for module in adapter.low_rank)}
    for name in sorted(names):
        shape = base.entry(name).shape
        step = max(1, PIECE_BYTES // (8 * math.prod(shape[1:])))
        for start, stop in _between(kept.get(name, []), shape[0]):
            for first in range(start, stop, step):
                span = (first, min(first + step, stop))
                yield Patch(
                    tensor=name,
                    span=span,
                    values=lambda name=name, span=span: rows.rows(name, span),
                    exact=False,
                )


def without_rows(
    adapter: Adapter, spans: Mapping[str, list[Span]], share: float
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The adapter with `share` of its change taken back on some rows.

    Args:
        adapter: The adapter.
        spans: Tensor of the base -> its rows that go back.
        share: 1 takes the change back wholly.

    Returns:
        Tensors and configuration of the new adapter. Its `target_modules` list every module that
        is left by its full name, so that nothing is adapted by a pattern any more.
    """
    tensors: dict[str, Tensor] = {}
    left: list[str] = []
    for module, change in sorted(adapter.low_rank.items()):
        b = read_tensor(change.b)
        for start, stop in spans.get(f"{module}.weight", []):
            b[start:stop] = ((1.0 - share) * b[start:stop].double()).to(b.dtype)
        if not bool(b.any()):
            continue
        left.append(module)
        tensors[change.a.name] = read_tensor(change.a)
        tensors[change.b.name] = b
    for name, entry in adapter.saved.items():
        if name in spans:
            raise HydraHeadError(
                f"the adapter holds {name!r} whole",
                where=entry.file,
                mend="use --merge, which writes a whole checkpoint",
            )
        tensors[entry.name] = read_tensor(entry)
    if not left:
        raise HydraHeadError(
            "nothing of the adapter is left: it changes only what goes back",
            where=adapter.directory,
            mend="the restored model is PRE itself",
        )
    config = {**adapter.config, "target_modules": left, "exclude_modules": None}
    config["layers_to_transform"] = config["layers_pattern"] = None
    return tensors, config


_AGAIN = "fetch or save the adapter again"
_MERGE_ELSEWHERE = "merge the adapter with peft and give the merged checkpoint as POST"


def _bare(name: str, entry: TensorEntry) -> str:
    if not name.startswith(PREFIX):
        raise HydraHeadError(
            f"tensor {name!r} does not start with {PREFIX!r}", where=entry.file, mend=_AGAIN
        )
    bare = name.removeprefix(PREFIX)
    if "lora_" in bare and not bare.endswith((".lora_A.weight", ".lora_B.weight")):
        raise HydraHeadError(
            f"tensor {name!r} is no part of a plain LoRA on a linear layer",
            where=entry.file,
            mend=_MERGE_ELSEWHERE,
        )
    if entry.dtype not in WEIGHT_DTYPES:
        raise HydraHeadError(
            f"tensor {name!r} has dtype {DTYPE_NAMES[entry.dtype]}", where=entry.file, mend=_AGAIN
        )
    return bare


def _low_rank(
    module: str,
    a_name: str,
    stored: Mapping[str, TensorEntry],
    config: Mapping[str, Any],
    base: SafetensorsReader,
) -> LowRank:
    a, b = stored[a_name], stored.get(a_name.replace("lora_A", "lora_B"))
    if b is None:
        raise HydraHeadError(
            f"tensor {a_name!r} has no lora_B beside it", where=a.file, mend=_AGAIN
        )
    weight = f"{module}.weight"
    if weight not in base:
        raise _not_of(base, f"adapts {module!r}, which PRE does not have", a)
    shape = base.entry(weight).shape
    if len(a.shape) != 2 or len(b.shape) != 2 or a.shape[0] != b.shape[1]:
        raise HydraHeadError(
            f"{module!r}: A {list(a.shape)} and B {list(b.shape)} do not fit", where=a.file
        )
    if (b.shape[0], a.shape[1]) != shape:
        there = [b.shape[0], a.shape[1]]
        raise _not_of(base, f"changes {module!r} by a {there} matrix, PRE's is {list(shape)}", a)
    return LowRank(module=module, a=a, b=b, scale=_scale(module, config, rank=a.shape[0]))


def _scale(module: str, config: Mapping[str, Any], *, rank: int) -> float:
    """Alpha / r, or alpha / sqrt(r) for rsLoRA (arXiv 2312.03732); patterns name modules."""
    alpha = float(config.get("lora_alpha") or 8)
    for pattern, value in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _saved(name: str, entry: TensorEntry, base: SafetensorsReader) -> TensorEntry:
    if name not in base:
        raise _not_of(base, f"holds {name!r}, which PRE does not have", entry)
    if base.entry(name).shape != entry.shape:
        there, here = list(entry.shape), list(base.entry(name).shape)
        raise _not_of(base, f"holds {name!r} with shape {there}, PRE's is {here}", entry)
    return entry


def _not_of(base: SafetensorsReader, what: str, entry: TensorEntry) -> HydraHeadError:
    return HydraHeadError(
        f"the adapter {what}",
        where=entry.file,
        mend=f"give the checkpoint the adapter was trained on as PRE, not {base.directory}",
    )


def _between(kept: list[Span], count: int) -> Iterator[Span]:
    end = 0
    for start, stop in sorted(kept):
        if start > end:
            yield end, start
        end = max(end, stop)
    if count > end:
        yield end, count
