"""One batch of packed token rows, the currency between data, objectives and the loop.

`labels[i]` is the target *for* position i, that is the next token, so no code downstream shifts
anything. `position_ids` restart at 0 wherever a document begins; that is how packed documents are
told apart.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100
"""The label of a position without a target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Rows of packed documents.

    `target_weights` scales the loss of single targets (None: every target counts 1).
    """

    input_ids: Int[Tensor, "b t"]
    labels: Int[Tensor, "b t"]
    position_ids: Int[Tensor, "b t"]
    target_weights: Float[Tensor, "b t"] | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on `device`."""
        weights = self.target_weights
        return Batch(
            input_ids=self.input_ids.to(device, non_blocking=True),
            labels=self.labels.to(device, non_blocking=True),
            position_ids=self.position_ids.to(device, non_blocking=True),
            target_weights=None if weights is None else weights.to(device, non_blocking=True),
        )

    @property
    def num_tokens(self) -> int:
        """Tokens the model reads, padding included."""
        return self.input_ids.numel()
