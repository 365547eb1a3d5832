"""The gates of the delta rule: how fast a group's state decays, how strongly a token is written.

    log_decay = -exp(A_log) softplus(W_a x + dt_bias)          beta = s sigmoid(W_b x + c)

(Gated DeltaNet, arXiv 2412.06464; s = 2 for negative eigenvalues, arXiv 2411.12537, else 1; the
bias c is ours, so that both start alike.) Everything starts from constants, without randomness,
W = 0:

- decay exp(-1/m) with memories m between 16 and 1024 tokens, log-spaced over the teacher's slots: a
  converted head begins as slowly decaying linear attention, and the heads of a layer differ;
- beta = 0.5, also with s = 2.

All of it lives in fp32 and is computed there: bf16 cannot hold the small steps of a gate.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.autocast import no_autocast
from hydrahead.mixers.contract import MixerShape

SHORTEST_MEMORY = 16.0
"""Tokens after which the fastest initial decay has left 1/e."""
LONGEST_MEMORY = 1024.0
INITIAL_BETA = 0.5


class DeltaGates(nn.Module):
    """Decay and writing strength of every group, in fp32.

    Args:
        shape: The mixer's heads and the model around them.
        negative_eigenvalues: beta in (0, 2) instead of (0, 1).
    """

    def __init__(self, shape: MixerShape, *, negative_eigenvalues: bool = False) -> None:
        super().__init__()
        self.shape = shape
        self.beta_range = 2.0 if negative_eigenvalues else 1.0
        groups, size = shape.num_groups, shape.hidden_size
        self.A_log = nn.Parameter(torch.empty(groups, dtype=torch.float32))
        self.dt_bias = nn.Parameter(torch.empty(groups, dtype=torch.float32))
        self.decay_weight = nn.Parameter(torch.empty(groups, size, dtype=torch.float32))
        self.beta_weight = nn.Parameter(torch.empty(groups, size, dtype=torch.float32))
        self.beta_bias = nn.Parameter(torch.empty(groups, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start described above; a group's memory depends on its teacher slots alone."""
        slots = [sum(group.q_heads) / len(group.q_heads) for group in self.shape.groups]
        spread = math.log(LONGEST_MEMORY / SHORTEST_MEMORY)
        rates = [
            math.exp(-spread * (slot + 0.5) / self.shape.num_q_heads) / SHORTEST_MEMORY
            for slot in slots
        ]
        self.A_log.zero_()
        # softplus(dt_bias) = rate
        self.dt_bias.copy_(torch.tensor([math.log(math.expm1(rate)) for rate in rates]))
        self.decay_weight.zero_()
        self.beta_weight.zero_()
        start = INITIAL_BETA / self.beta_range
        self.beta_bias.fill_(math.log(start / (1.0 - start)))

    def forward(
        self, hidden: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b t n"], Float[Tensor, "b t n"]]:
        """log_decay (<= 0) and beta of every token and group, in fp32 (fp64 for fp64 input)."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with no_autocast(hidden.device):
            x = hidden.to(dtype)
            step = F.linear(x, self.decay_weight.to(dtype), self.dt_bias.to(dtype))
            log_decay = self.A_log.to(dtype).exp().neg() * F.softplus(step)
            write = F.linear(x, self.beta_weight.to(dtype), self.beta_bias.to(dtype)).sigmoid()
            return log_decay, write if self.beta_range == 1.0 else self.beta_range * write
