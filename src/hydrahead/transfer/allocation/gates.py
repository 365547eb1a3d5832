"""What all forms of gates share, and the table of them.

Gates are one fp32 number per unit: rows are the layers whose units are given away, columns their
kv_heads, or one column where a layer's kv_heads share a gate. A gate of 1 is the first mixer of the
pair, a gate of 0 the second.

A step's values are a pure function of the parameters, the seed and the step: they are the same on
every rank and in every micro-batch, and a resumed run draws what it would have drawn.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.core.tables import Table

GATES = Table(
    "form of gates",
    {
        "hard_concrete": "hydrahead.transfer.allocation.l0_gates:L0Gates",
        "l1": "hydrahead.transfer.allocation.l1_gates:L1Gates",
    },
)
"""Name -> its `Gates`: ConSA's, and DuoAttention's for comparison."""

LossName = Literal["next_token", "answers"]


class Gates(nn.Module, ABC):
    """Trainable gates of [l rows, u columns]."""

    default_loss: LossName

    @property
    @abstractmethod
    def openness(self) -> Float[Tensor, "l u"]:
        """What units are ranked by: log-odds, or the gate itself. Higher is more full."""

    @abstractmethod
    def values(self, step: int) -> Float[Tensor, "l u"]:
        """Gates in [0, 1] of step `step`, differentiable."""

    @abstractmethod
    def settled(self) -> Float[Tensor, "l u"]:
        """Gates without randomness."""

    @abstractmethod
    def penalty(self, step: int) -> Float[Tensor, ""]:
        """What is added to the mean task loss."""

    @abstractmethod
    def expected(self) -> Float[Tensor, ""]:
        """The full fraction in expectation."""

    @abstractmethod
    def undecided(self) -> int:
        """Units that are neither open nor shut."""

    @abstractmethod
    def constrain_(self) -> None:
        """Bring the parameters back into their range after a step."""

    @abstractmethod
    def wanted(self, step: int) -> float | None:
        """The full fraction the penalty pulls to at `step`; None if it pulls to none."""

    @abstractmethod
    def rate(self, step: int) -> float:
        """Factor on the learning rates at `step`."""

    @abstractmethod
    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        """Groups for Adam: parameters, `lr`, `maximize`."""

    def realised(self) -> Float[Tensor, ""]:
        """Share of units more open than shut: what rounding each gate alone would give."""
        return (self.settled() > 0.5).float().mean()
