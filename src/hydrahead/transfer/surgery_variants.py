"""What a restoration takes back: which roles, how much of them, and the closed form `pro`.

Literal QK-Restore (arXiv 2606.11052, section 5) takes W_Q and W_K, nothing else: norms and biases
of q and k stay as the fine-tuning left them unless the variant says `+norms` or `+bias`.

`pro` is the paper's Procrustes variant, as two independent notes on it report the closed form. Per
query head, with W in torch's layout [e, d], S = W_k W_k^T [e, e] of the pre checkpoint's key head
that the query head reads (W_k becomes the pre checkpoint's), and D = W_q(pre) - W_q(post):

    W_q = W_q(post) + (S + l I)^-1 S D            l = lambda * trace(S) / e

It minimises l ||W_q - W_q(post)||^2 + ||W_k^T (W_q - W_q(pre))||^2, the second term being the error
in the logit form W_k^T W_q [d, d]: strong directions of the keys go back, weak ones stay. lambda is
relative to the mean eigenvalue of S; the paper gives no value. lambda -> 0 is `qk` where S has full
rank.

Everything is computed in fp64 from the stored values and rounded once.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.core.errors import HydraHeadError, did_you_mean

Role = Literal["q", "k", "v"]
BASES: dict[str, tuple[Role, ...]] = {
    "qk": ("q", "k"),
    "q": ("q",),
    "k": ("k",),
    "v": ("v",),
    "pro": ("q", "k"),
}
EXTRAS = ("norms", "bias")
DEFAULT_LAMBDA = 0.1
"""Ours: at the mean strength of a key direction, 91 % of the change is taken back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """A restoration, as data."""

    base: str
    norms: bool = False
    bias: bool = False
    alpha: float = 1.0
    """Share of the change that is taken back: post + alpha (pre - post)."""
    lambda_: float | None = None
    """Of `pro`; relative to the mean eigenvalue of S."""

    @property
    def roles(self) -> tuple[Role, ...]:
        """Whose weights change."""
        return BASES[self.base]

    @property
    def is_exact(self) -> bool:
        """Whether every changed value is one of the pre checkpoint's, bit for bit."""
        return self.alpha == 1.0 and self.base != "pro"

    @property
    def name(self) -> str:
        """As the command line takes it."""
        extras = [extra for extra in EXTRAS if getattr(self, extra)]
        return "+".join((self.base, *extras))


def parse_variant(text: str, *, alpha: float = 1.0, lambda_: float | None = None) -> Variant:
    """A variant from its name: `qk`, `q`, `k`, `v` or `pro`, then `+norms`, `+bias` or both.

    Raises:
        HydraHeadError: no such variant, an alpha that is not finite, a lambda below 0 or without
            `pro`.
    """
    base, *extras = text.strip().split("+")
    known = [*BASES, "qk+norms", "qk+bias"]
    if base not in BASES or len(set(extras)) < len(extras) or not set(extras) <= set(EXTRAS):
        mend = did_you_mean(text, known) or f"known: {', '.join(known)}"
        raise HydraHeadError(f"unknown variant {text!r}", where="--variant", mend=mend)
    if base == "v" and "norms" in extras:
        raise HydraHeadError("values have no norms", where="--variant", mend="leave out +norms")
    if not -10.0 <= alpha <= 10.0:
        raise HydraHeadError(
            f"alpha is {alpha}", where="--alpha", mend="1 restores, 0 does nothing"
        )
    if lambda_ is not None and base != "pro":
        raise HydraHeadError(
            "only the variant pro has a lambda", where="--lambda", mend="add --variant pro"
        )
    if lambda_ is not None and not 0.0 <= lambda_ < float("inf"):
        raise HydraHeadError(f"lambda is {lambda_}", where="--lambda", mend="give 0 or more")
    if base == "pro" and lambda_ is None:
        lambda_ = DEFAULT_LAMBDA
    return Variant(
        base=base, norms="norms" in extras, bias="bias" in extras, alpha=alpha, lambda_=lambda_
    )


def closed_form(
    query_post: Float[Tensor, "e d"],
    query_pre: Float[Tensor, "e d"],
    key_pre: Float[Tensor, "e d"],
    lambda_: float,
) -> Float[Tensor, "e d"]:
    """W_q of one query head by the closed form in the module's text, in fp64.

    Where S is singular and lambda is 0, the directions that no key has keep the post value (the
    limit lambda -> 0 of the formula).
    """
    post, pre, key = (tensor.double() for tensor in (query_post, query_pre, key_pre))
    strength, directions = torch.linalg.eigh(key @ key.T)
    strength = strength.clamp(min=0.0)
    ridge = lambda_ * strength.mean()
    # Rounding leaves the eigenvalues of a singular S at about this size instead of 0.
    tiny = strength.amax() * strength.numel() * torch.finfo(torch.float64).eps
    share = torch.where(strength > tiny, strength / (strength + ridge), 0.0)
    return post + directions @ (share[:, None] * (directions.T @ (pre - post)))


def blended(post: Tensor, wanted: Tensor, alpha: float) -> Tensor:
    """Post + alpha (wanted - post) in fp64; exactly `wanted` at alpha 1."""
    if alpha == 1.0:
        return wanted
    wide = post.double()
    return wide + alpha * (wanted.double() - wide)
