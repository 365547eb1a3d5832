"""The expansion layer: tokens of one window query static vectors of words in other windows.

The paper (arXiv 2606.10716, section 3.3) describes it in words; its equations were not to be had,
so these are a reconstruction (specs: 6.4), for a window with hidden states H [q d] and context
words with static vectors E [m e]:

    Q = H W_Q    K = E W_K    V = E W_V    Z = softmax(Q K^T / sqrt(width) + log n) V

Ours is the term log n, n the number of times a word occurs in the context: softmax over distinct
words with it equals softmax over every occurrence, because n equal keys have n equal weights. A
document of N words has far fewer distinct ones, and that is what keeps it affordable.

Invariants: a context without words gives exactly zero, whatever the parameters are; a word with
n = 0 has no influence.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Expansion(nn.Module):
    """One cross-attention layer without biases.

    Args:
        hidden: d, width of the queries' states.
        static_width: e, width of the static vectors.
        width: of queries, keys and values, all heads together.
        heads: How many share the width.
    """

    def __init__(self, *, hidden: int, static_width: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(hidden, width, bias=False)
        self.key = nn.Linear(static_width, width, bias=False)
        self.value = nn.Linear(static_width, width, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "b q d"],
        vectors: Float[Tensor, "m e"],
        log_counts: Float[Tensor, "b m"],
    ) -> Float[Tensor, "b q width"]:
        """What each query gathers.

        Args:
            hidden: States of the words or tokens of b windows.
            vectors: Static vectors of the distinct words around them.
            log_counts: log of how often each occurs in a window's context; -inf where it does not.
        """
        batch, queries, _ = hidden.shape
        if not vectors.shape[0]:
            return hidden.new_zeros(batch, queries, self.query.out_features)
        filled = (log_counts > float("-inf")).any(dim=-1)
        # A row of -inf would be 0/0: such a window gets a uniform bias here and zero below.
        bias = torch.where(filled[:, None], log_counts, 0.0).to(hidden.dtype)
        gathered = scaled_dot_product_attention(
            self._split(self.query(hidden)),
            self._split(self.key(vectors)[None]).expand(batch, -1, -1, -1),
            self._split(self.value(vectors)[None]).expand(batch, -1, -1, -1),
            attn_mask=bias[:, None, None, :].expand(-1, self.heads, queries, -1),
        )
        merged = gathered.transpose(1, 2).reshape(batch, queries, -1)
        return torch.where(filled[:, None, None], merged, 0.0)

    def _split(self, projected: Float[Tensor, "b t width"]) -> Float[Tensor, "b h t e"]:
        batch, length, width = projected.shape
        return projected.view(batch, length, self.heads, width // self.heads).transpose(1, 2)
