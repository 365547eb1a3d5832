"""Reordering heads by slices: no index tensor, so nothing waits for the device."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def runs_of(order: Sequence[int]) -> tuple[slice, ...]:
    """`order` as slices of consecutive numbers."""
    runs: list[slice] = []
    for index in order:
        if runs and runs[-1].stop == index:
            runs[-1] = slice(runs[-1].start, index + 1)
        else:
            runs.append(slice(index, index + 1))
    return tuple(runs)


def take_heads(
    heads: Float[Tensor, "b t heads e"], runs: tuple[slice, ...]
) -> Float[Tensor, "b t heads e"]:
    """The heads in the order of `runs`; nothing is copied when that is the order they have."""
    if len(runs) == 1:
        return heads
    return torch.cat([heads[:, :, run] for run in runs], dim=2)
