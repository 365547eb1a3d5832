"""Losses that read logits, without the logits of a whole batch ever existing at once.

The hidden states are cut into chunks of tokens. For each chunk the logits are formed, a `score`
callable turns them into a loss and its gradient with respect to the logits in closed form, and that
gradient goes straight back into the hidden states and the head's weight. What is kept until
backward has the size of the hidden states and of the weight: b*t*d + v*d, never b*t*v. The idea is
common to fused linear cross-entropy kernels; this is the plain torch form, exact in any dtype (the
tests compare it with the naive loss in float64).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from hydrahead.training.batch import IGNORE, Batch

ScoreChunk = Callable[[Float[Tensor, "c v"], slice], tuple[Tensor, Float[Tensor, "c v"]]]
"""(logits of a chunk, which tokens) -> (summed loss values [k], gradient of the first one's sum).

The logits may be overwritten. Entry 0 of the values is the loss; further entries are only reported.
"""

_CHUNK_BYTES = 16 << 20


def default_chunk_tokens(vocab_size: int, device: torch.device) -> int:
    """Tokens per chunk: small enough for a CPU's cache, large enough to fill a GPU."""
    budget = _CHUNK_BYTES if device.type == "cpu" else 32 * _CHUNK_BYTES
    return max(64, budget // (4 * vocab_size))


def wider(dtype: torch.dtype) -> torch.dtype:
    """The dtype losses are computed in: float32, or float64 for float64 input."""
    return torch.promote_types(dtype, torch.float32)


class _ChunkedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        score: ScoreChunk,
        chunk_tokens: int,
    ) -> Tensor:
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        wide = wider(hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias and bias is not None else None
        total: Tensor | None = None
        for start in range(0, hidden.shape[0], chunk_tokens):
            tokens = slice(start, min(start + chunk_tokens, hidden.shape[0]))
            chunk = hidden[tokens]
            logits = torch.nn.functional.linear(chunk, weight, bias).to(wide)
            values, grad_logits = score(logits, tokens)
            total = values if total is None else total + values
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
            narrow = grad_logits.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(narrow, weight, out=grad_hidden[tokens])
            if grad_weight is not None:
                if narrow.dtype == wide:
                    grad_weight.addmm_(narrow.T, chunk)
                else:
                    grad_weight += narrow.T @ chunk
        assert total is not None
        ctx.grads = (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_values: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_values[0]
        grads = ctx.grads
        ctx.grads = None
        assert grads is not None, "the chunked head loss can be differentiated once"
        return (
            *(None if grad is None else grad.mul_(scale.to(grad.dtype)) for grad in grads),
            None,
            None,
        )


def chunked_head_loss(
    hidden: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    bias: Float[Tensor, " v"] | None,
    score: ScoreChunk,
    *,
    num_values: int,
    chunk_tokens: int | None = None,
) -> Float[Tensor, " k"]:
    """Summed values of `score` over all tokens; only entry 0 may be differentiated.

    Args:
        hidden: Final hidden states of the tokens that have a target.
        weight: The language-model head.
        bias: The head's bias, if it has one.
        score: See `ScoreChunk`.
        num_values: How many values `score` returns (k).
        chunk_tokens: Tokens whose logits exist at once.
    """
    if hidden.shape[0] == 0:  # keeps the graph alive with zero gradients
        return (hidden.sum() * 0).to(wider(hidden.dtype)).expand(num_values)
    chunk = chunk_tokens or default_chunk_tokens(weight.shape[0], hidden.device)
    return _ChunkedHead.apply(hidden, weight, bias, score, chunk)  # type: ignore[no-any-return]


def cross_entropy_chunk(
    logits: Float[Tensor, "c v"], labels: Int[Tensor, " c"], weights: Float[Tensor, " c"] | None
) -> tuple[Tensor, Tensor, Float[Tensor, "c v"]]:
    """(weighted loss, number right, gradient) of one chunk; overwrites `logits`."""
    rows = torch.arange(len(labels), device=labels.device)
    normaliser = torch.logsumexp(logits, dim=-1)
    losses = normaliser - logits[rows, labels]
    right = (logits.argmax(-1) == labels).sum()
    grad = logits.sub_(normaliser[:, None]).exp_()
    grad[rows, labels] -= 1
    if weights is None:
        return losses.sum(), right, grad
    return (losses * weights).sum(), right, grad.mul_(weights[:, None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """The positions of a batch that have a target, as flat indices (None: all of them).

    Made before the forward pass: finding them waits for the device, and then it waits for nothing.
    """

    index: Int[Tensor, " n"] | None
    labels: Int[Tensor, " n"]
    weights: Float[Tensor, " n"] | None

    @classmethod
    def of(cls, batch: Batch) -> "Targets":
        """The targets of a batch."""
        labels = batch.labels.reshape(-1)
        weights = None if batch.target_weights is None else batch.target_weights.reshape(-1)
        keep = labels != IGNORE
        if bool(keep.all()):
            return cls(index=None, labels=labels, weights=weights)
        index = keep.nonzero(as_tuple=True)[0]
        return cls(
            index=index,
            labels=labels.index_select(0, index),
            weights=None if weights is None else weights.index_select(0, index),
        )

    def rows(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "n d"]:
        """The hidden states that predict the targets."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        return flat if self.index is None else flat.index_select(0, self.index)

    @property
    def weight(self) -> Tensor:
        """What a summed loss is divided by: the number of targets, or the sum of their weights."""
        if self.weights is not None:
            return self.weights.sum()
        return torch.tensor(float(len(self.labels)), device=self.labels.device)


def chunked_cross_entropy(
    rows: Float[Tensor, "n d"],
    weight: Float[Tensor, "v d"],
    bias: Float[Tensor, " v"] | None,
    targets: Targets,
    *,
    chunk_tokens: int | None = None,
) -> tuple[Tensor, Tensor]:
    """(summed weighted cross-entropy, number of targets predicted right)."""

    def score(logits: Tensor, tokens: slice) -> tuple[Tensor, Tensor]:
        weights = None if targets.weights is None else targets.weights[tokens].to(logits.dtype)
        loss, right, grad = cross_entropy_chunk(logits, targets.labels[tokens], weights)
        return torch.stack([loss, right.to(loss.dtype)]), grad

    values = chunked_head_loss(rows, weight, bias, score, num_values=2, chunk_tokens=chunk_tokens)
    return values[0], values[1].detach()
