"""The constraint: an augmented Lagrangian that holds the expected full fraction at its target.

    L = L_task + sum_c lambda_c e_c + phi_c e_c^2        e_c = expected_c - wanted(step)

Gates descend on L, both multipliers ascend (ConSA, arXiv 2606.18056; the form is that of
Sheared-LLaMA, arXiv 2310.06694). There is one constraint c for all layers together (scope
"global"), or one per layer (scope "layer"). phi's gradient is a square, so it only grows; lambda
changes sign.

The paper constrains sparsity, the share of units given away; here it is `full_fraction`, the share
that stays, which only flips the sign of e.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.core.errors import unknown_name

Scope = Literal["layer", "global"]
_SCOPES: dict[str, Scope] = {"layer": "layer", "global": "global"}


def scope_of(name: str) -> Scope:
    """The scope of that name.

    Raises:
        HydraHeadError: There is none.
    """
    if name not in _SCOPES:
        raise unknown_name("scope", name, _SCOPES)
    return _SCOPES[name]


class Lagrangian(nn.Module):
    """Multipliers of the constraints, fp32, both zero at the start.

    Args:
        num_layers: Layers whose units are given away.
        scope: "layer" constrains each of them, "global" their mean.
        full_fraction: The target, reachable by whole units.
        warmup_steps: Over so many steps the target falls linearly from 1 (0: it is there at once).
    """

    def __init__(
        self, num_layers: int, *, scope: Scope, full_fraction: float, warmup_steps: int
    ) -> None:
        super().__init__()
        self.scope = scope
        self.full_fraction = full_fraction
        self.warmup_steps = warmup_steps
        count = num_layers if scope == "layer" else 1
        self.linear = nn.Parameter(torch.zeros(count, dtype=torch.float32))
        self.quadratic = nn.Parameter(torch.zeros(count, dtype=torch.float32))

    def wanted(self, step: int) -> float:
        """Target of step `step` (0-based)."""
        if step + 1 >= self.warmup_steps:
            return self.full_fraction
        return 1.0 - (1.0 - self.full_fraction) * (step + 1) / self.warmup_steps

    def penalty(self, open_probability: Float[Tensor, "l u"], step: int) -> Float[Tensor, ""]:
        """Both terms, summed over the constraints."""
        rows = open_probability if self.scope == "layer" else open_probability.reshape(1, -1)
        excess = rows.mean(dim=1) - self.wanted(step)
        return (self.linear * excess + self.quadratic * excess.square()).sum()
