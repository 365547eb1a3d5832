"""A gate on each head's output, made from the layer's input (gated attention, arXiv 2505.06708).

    y = o * sigmoid(W x + b) / sigmoid(b)

W starts at zero, so the gate starts as exactly 1 and a converted head starts as the teacher's,
whatever b is. Parameters are fp32: in bf16 the small early steps of W and b would round away.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.autocast import no_autocast


class OutputGate(nn.Module):
    """Elementwise gate over the outputs of `num_heads` q_heads; head_dim rows each, mixer order."""

    def __init__(self, hidden_size: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        size = num_heads * head_dim
        self.head_dim = head_dim
        self.weight = nn.Parameter(torch.zeros(size, hidden_size, dtype=torch.float32))
        self.bias = nn.Parameter(torch.ones(size, dtype=torch.float32))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Back to a gate of exactly 1."""
        self.weight.zero_()
        self.bias.fill_(1.0)

    def forward(
        self, output: Float[Tensor, "b t h e"], hidden: Float[Tensor, "b t d"]
    ) -> Float[Tensor, "b t h e"]:
        """The gated output, in the dtype of `output`; computed in fp32 (fp64 for fp64 input)."""
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        with no_autocast(hidden.device):
            weight, bias = self.weight.to(dtype), self.bias.to(dtype)
            gate = F.linear(hidden.to(dtype), weight, bias).sigmoid() / bias.sigmoid()
            return (output * gate.unflatten(-1, (-1, self.head_dim))).to(output.dtype)
