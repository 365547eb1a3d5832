"""Several processes that train the same gates on different rows.

Each has all gates and its share of every step's batches. Gates are drawn from seed and step alone,
so nothing has to be sent for them to agree; gradients and sums are added up, and every process
takes the same step. The result is that of one process with as many accumulated batches, up to the
order of additions.
"""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch import distributed as dist


def sum_over_ranks_(tensors: Iterable[Tensor]) -> None:
    """Add up each tensor over all processes, in place; nothing happens in a single one."""
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return
    present = list(tensors)
    if not present:
        return
    flat = torch.cat([tensor.detach().reshape(-1).double() for tensor in present])
    dist.all_reduce(flat)
    for tensor, part in zip(present, flat.split([t.numel() for t in present]), strict=True):
        tensor.copy_(part.view_as(tensor))
