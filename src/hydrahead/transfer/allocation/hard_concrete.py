"""The hard-concrete distribution (Louizos et al., arXiv 1712.01312).

A gate with log-odds a, drawn with u uniform in (0, 1):

    s = sigmoid((ln u - ln(1 - u) + a) / beta)      z = min(1, max(0, s (zeta - gamma) + gamma))

Stretching beyond [0, 1] and cutting gives exact zeros and ones a probability of their own, and the
probability of being open has a closed form, so the expected number of open gates needs no sampling.
"""

import math

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

EPS = 1e-6
"""Uniform draws stay this far from 0 and 1."""


class HardConcrete(BaseModel):
    """Shape of the distribution; the defaults are those of Louizos et al."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    beta: float = Field(default=2 / 3, gt=0, allow_inf_nan=False)
    """Temperature: small is close to a coin, large to no randomness at all."""
    gamma: float = Field(default=-0.1, lt=0, allow_inf_nan=False)
    """Lower end of the stretched interval."""
    zeta: float = Field(default=1.1, gt=1, allow_inf_nan=False)
    """Upper end."""

    def sample(
        self, log_odds: Float[Tensor, "*units"], uniform: Float[Tensor, "*units"]
    ) -> Float[Tensor, "*units"]:
        """Gates in [0, 1] for given draws in (0, 1); differentiable where they are not cut."""
        uniform = uniform.clamp(EPS, 1 - EPS)
        noise = torch.log(uniform) - torch.log1p(-uniform)
        return self._stretched(torch.sigmoid((noise + log_odds) / self.beta))

    def mean_gate(self, log_odds: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
        """The gate without noise, as Louizos et al. test with: s = sigmoid(a)."""
        return self._stretched(torch.sigmoid(log_odds))

    def open_probability(self, log_odds: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
        """P(z > 0) = sigmoid(a - beta ln(-gamma / zeta)), what the constraint counts."""
        return torch.sigmoid(log_odds - self.beta * math.log(-self.gamma / self.zeta))

    def one_probability(self, log_odds: Float[Tensor, "*units"]) -> Float[Tensor, "*units"]:
        """P(z = 1) = sigmoid(a - beta ln((1 - gamma) / (zeta - 1)))."""
        return torch.sigmoid(log_odds - self.beta * math.log((1 - self.gamma) / (self.zeta - 1)))

    def _stretched(self, s: Tensor) -> Tensor:
        return (s * (self.zeta - self.gamma) + self.gamma).clamp(0.0, 1.0)
