"""Checkpoints of a training run: safetensors and JSON, written whole or not at all.

One directory per checkpoint, `step-00000120/`, with `masters.safetensors` (float32, of what
trains), `optimiser.safetensors`, `random.safetensors` (generator states) and `state.json` (step,
position in the data, identity of the run). It is written under a temporary name and renamed, so a
kill leaves the previous one intact.
"""

import errno
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json

_PREFIX = "step-"
_FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """Everything needed to go on exactly where a run stopped."""

    step: int
    """Optimiser steps done."""
    identity: Mapping[str, Any]
    """What must agree for a resume to make sense: configuration, data, model (plain JSON)."""
    data: Mapping[str, Any]
    """Position in the data (JSON)."""
    counters: Mapping[str, Any]
    """Running totals of the loop (JSON)."""
    masters: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    random: dict[str, Tensor]


def random_states() -> dict[str, Tensor]:
    """States of torch's generators on the CPU and every visible accelerator."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states: Mapping[str, Tensor]) -> None:
    """Restore what `random_states` returned."""
    for name, state in states.items():
        if name == "cpu":
            torch.set_rng_state(state)
        elif torch.cuda.is_available():
            torch.cuda.set_rng_state(state, int(name.removeprefix("cuda.")))


def list_checkpoints(directory: Path) -> list[Path]:
    """Finished checkpoints under `directory`, oldest first."""
    if not directory.is_dir():
        return []
    found = [p for p in directory.iterdir() if p.name.startswith(_PREFIX) and p.suffix != ".tmp"]
    return sorted(found)


def save_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Write a checkpoint, then remove all but the newest `keep`."""
    directory.mkdir(parents=True, exist_ok=True)
    final = directory / f"{_PREFIX}{checkpoint.step:08d}"
    partial = final.with_suffix(".tmp")
    for leftover in directory.glob("*.tmp"):
        shutil.rmtree(leftover)
    partial.mkdir()
    for name in ("masters", "optimiser", "random"):
        tensors: dict[str, Tensor] = getattr(checkpoint, name)
        flat = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        _save_tensors(flat, partial / f"{name}.safetensors")
    state = {
        "format_version": _FORMAT_VERSION,
        "step": checkpoint.step,
        "identity": checkpoint.identity,
        "data": checkpoint.data,
        "counters": checkpoint.counters,
    }
    write_json(partial / "state.json", state)
    for path in partial.iterdir():
        _fsync(path)
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)
    _fsync(directory)
    for old in list_checkpoints(directory)[:-keep]:
        shutil.rmtree(old)
    return final


def load_checkpoint(path: Path) -> Checkpoint:
    """Read one checkpoint.

    Raises:
        HydraHeadError: A file is missing or damaged.
    """
    try:
        state = read_json(path / "state.json")
        tensors = {
            name: load_file(path / f"{name}.safetensors")
            for name in ("masters", "optimiser", "random")
        }
        return Checkpoint(
            step=state["step"],
            identity=state["identity"],
            data=state["data"],
            counters=state["counters"],
            **tensors,
        )
    except (SafetensorError, OSError, KeyError, HydraHeadError) as error:
        raise HydraHeadError(
            f"the training checkpoint is damaged ({error})",
            where=path,
            mend="delete this directory to resume from the checkpoint before it, or start again",
        ) from error


def latest_checkpoint(directory: Path) -> Checkpoint | None:
    """The newest checkpoint, if there is one."""
    found = list_checkpoints(directory)
    return load_checkpoint(found[-1]) if found else None


def require_same_identity(saved: Mapping[str, Any], wanted: Mapping[str, Any], where: Path) -> None:
    """Refuse to resume a run that was started with other settings."""
    for key in sorted(saved.keys() | wanted.keys()):
        if saved.get(key) != wanted.get(key):
            raise HydraHeadError(
                f"the unfinished run there has {key} = {saved.get(key)!r}, "
                f"this one has {wanted.get(key)!r}",
                where=where,
                mend="repeat the same command to resume, or choose another output",
            )


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """`save_file`, with a full disk as the OSError it is."""
    try:
        save_file(tensors, path)
    except SafetensorError as error:
        if f"os error {errno.ENOSPC}" in str(error):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
