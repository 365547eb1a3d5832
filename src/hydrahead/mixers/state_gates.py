"""How fast the state of a Mamba-2 head decays, how strongly it is written, and what skips it.

    dt = clip(softplus(dt' + dt_bias), dt_min, dt_max)        log_decay = -exp(A_log) dt

(Mamba-2, arXiv 2405.21060.) Everything lives in fp32 and is computed there. The start is free of
randomness: A = 1 .. heads, D = 1, as transformers has it, and steps dt log-spaced from 1e-3 to 1e-1
over the heads, Mamba-2's own range (transformers starts at dt = 1.31: the slowest head then forgets
within a token).
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.autocast import no_autocast

SHORTEST_STEP, LONGEST_STEP = 1e-3, 1e-1


class StateGates(nn.Module):
    """Step, decay and skip of every head, in fp32.

    Args:
        heads: How many.
        dt_min: Least step.
        dt_max: Greatest step; None is no limit.
    """

    def __init__(self, heads: int, *, dt_min: float = 0.0, dt_max: float | None = None) -> None:
        super().__init__()
        self.dt_min, self.dt_max = dt_min, dt_max
        self.A_log = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        self.dt_bias = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        self.D = nn.Parameter(torch.empty(heads, dtype=torch.float32))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The start described above."""
        heads = self.A_log.shape[0]
        spread = math.log(LONGEST_STEP / SHORTEST_STEP)
        steps = [SHORTEST_STEP * math.exp(spread * (i + 0.5) / heads) for i in range(heads)]
        self.A_log.copy_(torch.arange(1, heads + 1, dtype=torch.float32).log())
        self.dt_bias.copy_(bias_of_steps(torch.tensor(steps)))
        self.D.fill_(1.0)

    def forward(
        self, dt: Float[Tensor, "b t h"]
    ) -> tuple[Float[Tensor, "b t h"], Float[Tensor, "b t h"]]:
        """Step and log_decay (<= 0) of every token and head, in fp32 (fp64 for fp64 input)."""
        dtype = torch.promote_types(dt.dtype, torch.float32)
        with no_autocast(dt.device):
            step = F.softplus(dt + self.dt_bias.to(dtype))
            if self.dt_min > 0 or self.dt_max is not None:
                step = step.clamp(self.dt_min, self.dt_max)
            return step, self.A_log.to(dtype).exp().neg() * step

    def skip(
        self, out: Float[Tensor, "b t h e"], x: Float[Tensor, "b t h e"]
    ) -> Float[Tensor, "b t h e"]:
        """Out + D x, in fp32 (fp64 for fp64 input)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        with no_autocast(x.device):
            return torch.addcmul(out, self.D.to(dtype).unsqueeze(-1), x)


def bias_of_steps(steps: Float[Tensor, " h"]) -> Float[Tensor, " h"]:
    """The dt_bias at which softplus gives `steps`."""
    return steps + torch.log(-torch.expm1(-steps))
