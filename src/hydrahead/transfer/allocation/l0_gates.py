"""ConSA's gates: hard-concrete, the expected full fraction held by an augmented Lagrangian.

Start (log-odds 5) and the closed-form expectation in the constraint are the paper's (arXiv
2606.18056). Rates, warm-up of the target and the limit on log-odds are not reported there; ours are
near its open ancestors' (Sheared-LLaMA: log-odds within +-4.6, target reached after 20 % of the
steps; PruLong, arXiv 2506.17121: after 80 %; rates of 1 for both multipliers in both).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.core.seeds import derive_seed
from hydrahead.transfer.allocation.config import AllocateConfig
from hydrahead.transfer.allocation.gates import Gates, LossName
from hydrahead.transfer.allocation.lagrangian import Lagrangian, Scope

_LEAST_RATE = 0.02
"""Of the learning rates, at the last step."""


class L0Gates(Gates):
    """One log-odds per unit, and the multipliers of the constraint.

    Args:
        shape: (rows, columns).
        scope: Of the constraint.
        full_fraction: Its target, reachable by whole units.
        config: Everything else.
    """

    default_loss: ClassVar[LossName] = "next_token"

    def __init__(
        self, shape: tuple[int, int], *, scope: Scope, full_fraction: float, config: AllocateConfig
    ) -> None:
        super().__init__()
        self._config = config
        self._distribution = config.hard_concrete
        self.log_odds = nn.Parameter(torch.full(shape, config.initial_log_odds))
        warmup = round(config.target_warmup * config.steps)
        self.constraint = Lagrangian(
            shape[0], scope=scope, full_fraction=full_fraction, warmup_steps=warmup
        )

    @property
    def openness(self) -> Float[Tensor, "l u"]:
        """The log-odds."""
        return self.log_odds.detach()

    def values(self, step: int) -> Float[Tensor, "l u"]:
        """A sample; drawn on the CPU, so that it is the same on every device."""
        generator = torch.Generator().manual_seed(derive_seed(self._config.seed, "gates", step))
        uniform = torch.rand(self.log_odds.shape, generator=generator)
        return self._distribution.sample(self.log_odds, uniform.to(self.log_odds.device))

    @torch.no_grad()
    def settled(self) -> Float[Tensor, "l u"]:
        """Gates without noise."""
        return self._distribution.mean_gate(self.log_odds)

    def penalty(self, step: int) -> Float[Tensor, ""]:
        """The Lagrangian's terms."""
        return self.constraint.penalty(self._distribution.open_probability(self.log_odds), step)

    @torch.no_grad()
    def expected(self) -> Float[Tensor, ""]:
        """Mean probability of being open."""
        return self._distribution.open_probability(self.log_odds).mean()

    @torch.no_grad()
    def undecided(self) -> int:
        """Gates of which neither 0 nor 1 is the likelier half of the distribution."""
        shut = 1 - self._distribution.open_probability(self.log_odds)
        one = self._distribution.one_probability(self.log_odds)
        return int(((shut < 0.5) & (one < 0.5)).sum())

    @torch.no_grad()
    def constrain_(self) -> None:
        """Keep log-odds within their limit, from where a gate can still come back."""
        limit = self._config.log_odds_limit
        self.log_odds.clamp_(-limit, limit)

    def wanted(self, step: int) -> float:
        """The constraint's target."""
        return self.constraint.wanted(step)

    def rate(self, step: int) -> float:
        """1, then down a line over the last part, so that the multipliers' oscillation dies."""
        steps = self._config.steps
        start = (1 - self._config.rate_decay) * steps
        if step < start:
            return 1.0
        return max(_LEAST_RATE, (steps - step) / max(steps - start, 1.0))

    def parameter_groups(self) -> Sequence[dict[str, Any]]:
        """Log-odds descend, multipliers ascend."""
        config = self._config
        multipliers = [self.constraint.linear, self.constraint.quadratic]
        return (
            {"params": [self.log_odds], "lr": config.gate_lr, "maximize": False},
            {"params": multipliers, "lr": config.multiplier_lr, "maximize": True},
        )
