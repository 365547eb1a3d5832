"""DuoAttention's gates (arXiv 2410.10819): a number in [0, 1] per unit, and an L1 penalty.

    L = L_task + 0.05 mean |a|        a starts at 1 and is cut to [0, 1] after every step

Nothing is random and no budget is aimed at: the penalty pulls every gate down, the loss holds some
up, and the budget is met afterwards by ranking. Learning rate warms up over the first fifth of the
steps and falls over the last fifth to a tenth, as in the published code.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.transfer.allocation.config import AllocateConfig
from hydrahead.transfer.allocation.gates import Gates, LossName
from hydrahead.transfer.allocation.lagrangian import Scope

_RAMP = 0.2
_LEAST_RATE = 0.1
_DECIDED = 0.25
"""A gate within this of 0 or 1 is decided; ours, for the report only."""


class L1Gates(Gates):
    """One gate per unit.

    Args:
        shape: (rows, columns).
        scope: Unused: the penalty knows no budget.
        full_fraction: Unused.
        config: Everything else.
    """

    default_loss: ClassVar[LossName] = "answers"

    def __init__(
        self, shape: tuple[int, int], *, scope: Scope, full_fraction: float, config: AllocateConfig
    ) -> None:
        super().__init__()
        self._config = config
        self.gate = nn.Parameter(torch.ones(shape, dtype=torch.float32))

    @property
    def openness(self) -> Float[Tensor, "l u"]:
        """The gates."""
        return self.gate.detach()

    def values(self, step: int) -> Float[Tensor, "l u"]:
        """The gates, whatever the step."""
        return self.gate

    def settled(self) -> Float[Tensor, "l u"]:
        """The gates."""
        return self.gate.detach()

    def penalty(self, step: int) -> Float[Tensor, ""]:
        """The weighted mean of their sizes."""
        return self._config.l1_weight * self.gate.abs().mean()

    def expected(self) -> Float[Tensor, ""]:
        """Their mean."""
        return self.gate.detach().mean()

    def undecided(self) -> int:
        """Gates that are far from both ends."""
        gate = self.gate.detach()
        return int(((gate > _DECIDED) & (gate < 1 - _DECIDED)).sum())

    @torch.no_grad()
    def constrain_(self) -> None:
        """Cut to [0, 1]."""
        self.gate.clamp_(0.0, 1.0)

    def wanted(self, step: int) -> None:
        """None: the penalty pulls to zero."""
        return

    def rate(self, step: int) -> float:
        """Up over the first fifth, down to a tenth over the last."""
        ramp = max(_RAMP * self._config.steps, 1.0)
        left = (self._config.steps - step) / ramp
        return min(1.0, (step + 1) / ramp, max(_LEAST_RATE, left))

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        """The gates alone."""
        return ({"params": [self.gate], "lr": self._config.l1_lr, "maximize": False},)
