"""Stage 2's loss: KL(teacher || hybrid) on logits plus cross-entropy on labels (HydraHead Eq. 16).

Both sides' logits are formed from hidden states a chunk of tokens at a time and dropped again
(`training.head_loss`), so nothing of the size batch x length x vocabulary ever exists. With
temperature T the soft term is T^2 KL(p_teacher(z/T) || p_hybrid(z/T)), whose gradient keeps its
size as T grows (Hinton et al., arXiv 1503.02531); the gradient with respect to the hybrid's logits
is T (p_hybrid - p_teacher).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.training.head_loss import Targets, chunked_head_loss, cross_entropy_chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """A language-model head: logits = hidden weight^T + bias."""

    weight: Float[Tensor, "v d"]
    bias: Float[Tensor, " v"] | None = None

    def logits(self, hidden: Float[Tensor, "c d"]) -> Float[Tensor, "c v"]:
        """Logits of a few tokens."""
        return torch.nn.functional.linear(hidden, self.weight, self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillWeights:
    """How the two terms are weighed; the sources give none, equal weights are our choice."""

    kl: float = 1.0
    ce: float = 1.0
    temperature: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSums:
    """Summed over targets: the weighted loss (differentiable), its two terms, and hits."""

    loss: Tensor
    kl: Tensor
    ce: Tensor
    right: Tensor


def chunked_distillation(
    hybrid_hidden: Float[Tensor, "n d"],
    hybrid_head: Head,
    teacher_hidden: Float[Tensor, "n d2"],
    teacher_head: Head,
    targets: Targets,
    weights: DistillWeights,
    *,
    chunk_tokens: int | None = None,
) -> DistillSums:
    """Sums of the distillation loss over the targets.

    Args:
        hybrid_hidden: Final hidden states of the positions that have a target.
        hybrid_head: The hybrid's head; gets a gradient if it requires one.
        teacher_hidden: The teacher's, of the same positions; never gets a gradient.
        teacher_head: The teacher's head.
        targets: Labels and optional weights of those positions.
        weights: Weights of the terms and the temperature.
        chunk_tokens: Tokens whose logits exist at once.
    """

    def score(logits: Tensor, tokens: slice) -> tuple[Tensor, Tensor]:
        teacher_logits = teacher_head.logits(teacher_hidden[tokens]).to(logits.dtype)
        scales = None if targets.weights is None else targets.weights[tokens].to(logits.dtype)
        kl, grad = _kl_chunk(logits, teacher_logits, weights.temperature, scales)
        ce, right, grad_ce = cross_entropy_chunk(logits, targets.labels[tokens], scales)
        grad = grad.mul_(weights.kl).add_(grad_ce, alpha=weights.ce)
        loss = weights.kl * kl + weights.ce * ce
        return torch.stack([loss, kl, ce, right.to(loss.dtype)]), grad

    values = chunked_head_loss(
        hybrid_hidden,
        hybrid_head.weight,
        hybrid_head.bias,
        score,
        num_values=4,
        chunk_tokens=chunk_tokens,
    )
    kl, ce, right = values.detach()[1:]
    return DistillSums(loss=values[0], kl=kl, ce=ce, right=right)


def _kl_chunk(
    logits: Float[Tensor, "c v"],
    teacher_logits: Float[Tensor, "c v"],
    temperature: float,
    scales: Float[Tensor, " c"] | None,
) -> tuple[Tensor, Float[Tensor, "c v"]]:
    """(summed T^2 KL, its gradient with respect to `logits`); overwrites `teacher_logits`."""
    soft = torch.log_softmax(logits / temperature, dim=-1)
    teacher = teacher_logits.div_(temperature)
    teacher -= torch.logsumexp(teacher, dim=-1, keepdim=True)
    probabilities = teacher.exp()
    kl = torch.linalg.vecdot(probabilities, teacher.sub_(soft)) * temperature**2
    grad = soft.exp_().sub_(probabilities).mul_(temperature)
    if scales is None:
        return kl.sum(), grad
    return (kl * scales).sum(), grad.mul_(scales[:, None])
