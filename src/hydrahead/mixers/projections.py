"""The front end attention-like mixers share: q, k and v projections, per-head norms, rotation.

What transformers' Llama, Mistral, Qwen2 and Qwen3 attention computes: linear, then (Qwen3 only)
RMSNorm over head_dim with the variance in fp32, then rotate-half RoPE. Each step is as few tensor
calls as torch has for it, since a decoded token waits for their launches; in bf16 it therefore
rounds less often than transformers does.
Rows of every weight are in mixer order: head by head, `head_dim` rows each.
"""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.contract import MixerShape, RowAxis, TeacherHeads


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis with a learned weight (as in Llama and Qwen3).

    Computed in fp32 (fp64 for fp64 inputs) and rounded once, in one launch on a GPU.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """A weight of ones."""
        self.weight.fill_(1.0)

    def forward(self, x: Float[Tensor, "*batch e"]) -> Float[Tensor, "*batch e"]:
        """Normalise the last axis to mean square one, then scale it by the weight."""
        if x.dtype != self.weight.dtype:  # under autocast; torch fuses equal dtypes only
            return self.weight * F.rms_norm(x, self.weight.shape, eps=self.eps)
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def apply_rope(
    x: Float[Tensor, "b t heads e"], cos: Float[Tensor, "b t e"], sin: Float[Tensor, "b t e"]
) -> Float[Tensor, "b t heads e"]:
    """Rotate the two halves of head_dim against each other (RoPE, arXiv 2104.09864).

    Computed in the promoted dtype of `x` and the tables, which the model builds in `x`'s dtype. The
    first half of `sin` is negated (`rope_tables`), so that the halves only trade places.
    """
    turned = x.roll(x.shape[-1] // 2, dims=-1)
    return torch.addcmul(x * cos.unsqueeze(2), turned, sin.unsqueeze(2))


def rope_tables(
    cos: Float[Tensor, "b t e"], sin: Float[Tensor, "b t e"]
) -> tuple[Float[Tensor, "b t e"], Float[Tensor, "b t e"]]:
    """What `apply_rope` takes, from cosines and sines of the angles (both halves alike)."""
    first, second = sin.chunk(2, dim=-1)
    return cos, torch.cat((-first, second), dim=-1)


def rotate(
    q: Float[Tensor, "b t h e"],
    k: Float[Tensor, "b t n e"],
    cos: Float[Tensor, "b t e"],
    sin: Float[Tensor, "b t e"],
) -> tuple[Float[Tensor, "b t h e"], Float[Tensor, "b t n e"]]:
    """`apply_rope` on queries and keys together: half the launches."""
    heads = apply_rope(torch.cat((q, k), dim=2), cos, sin)
    q, k = heads.split((q.shape[2], k.shape[2]), dim=2)
    return q, k


class Projections(nn.Module):
    """q, k and v linear maps of one mixer, and its q and k norms where it has them.

    Args:
        shape: The mixer's heads and the model around them.
        qk_norm: Whether to normalise q and k per head; None takes the teacher's choice. Norms exist
            only if the teacher has them too (`shape.qk_norm`): their weights come from it.
    """

    row_layout: ClassVar[dict[str, RowAxis]] = {
        "q.weight": "q_head",
        "q.bias": "q_head",
        "k.weight": "kv_head",
        "k.bias": "kv_head",
        "v.weight": "kv_head",
        "v.bias": "kv_head",
    }
    """Parameter name -> the heads its leading axis is split into (`HeadMixer.row_layout`)."""

    def __init__(self, shape: MixerShape, *, qk_norm: bool | None = None) -> None:
        super().__init__()
        self.shape = shape
        bias, width = shape.attention_bias, shape.head_dim
        self.q = nn.Linear(shape.hidden_size, shape.num_heads * width, bias=bias)
        self.k = nn.Linear(shape.hidden_size, shape.num_groups * width, bias=bias)
        self.v = nn.Linear(shape.hidden_size, shape.num_groups * width, bias=bias)
        has_norm = shape.qk_norm and (qk_norm is None or qk_norm)
        self.q_norm = RMSNorm(width, shape.norm_eps) if has_norm else None
        self.k_norm = RMSNorm(width, shape.norm_eps) if has_norm else None

    def project_raw(
        self, hidden: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b t h e"], Float[Tensor, "b t n e"], Float[Tensor, "b t n e"]]:
        """q, k and v per head, before the norms."""
        shape = (*hidden.shape[:-1], -1, self.shape.head_dim)
        if self.shape.input_multiplier != 1.0:
            hidden = hidden * self.shape.input_multiplier
        q, k, v = self.q(hidden).view(shape), self.k(hidden).view(shape), self.v(hidden).view(shape)
        return q, k if self.shape.key_multiplier == 1.0 else k * self.shape.key_multiplier, v

    def normalise(
        self, q: Float[Tensor, "b t h e"], k: Float[Tensor, "b t n e"]
    ) -> tuple[Float[Tensor, "b t h e"], Float[Tensor, "b t n e"]]:
        """Queries and keys after the per-head norms; unchanged where there are none."""
        if self.q_norm is not None:
            q = self.q_norm(q)
        if self.k_norm is not None:
            k = self.k_norm(k)
        return q, k

    def project(
        self, hidden: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b t h e"], Float[Tensor, "b t n e"], Float[Tensor, "b t n e"]]:
        """q, k and v per head, after the norms and before the rotation."""
        q, k, v = self.project_raw(hidden)
        q, k = self.normalise(q, k)
        return q, k, v

    @torch.no_grad()
    def init_from_teacher(self, teacher_heads: TeacherHeads) -> None:
        """Copy the teacher's rows (already cut to this mixer's groups), biases and norm weights."""
        names: tuple[Literal["q", "k", "v"], ...] = ("q", "k", "v")
        for name in names:
            linear: nn.Linear = getattr(self, name)
            linear.weight.copy_(getattr(teacher_heads, f"{name}_weight").flatten(0, 1))
            bias = getattr(teacher_heads, f"{name}_bias")
            assert (bias is None) == (linear.bias is None), f"{name} bias: teacher and shape differ"
            if bias is not None:
                linear.bias.copy_(bias.flatten())
        for norm, weight in (
            (self.q_norm, teacher_heads.q_norm_weight),
            (self.k_norm, teacher_heads.k_norm_weight),
        ):
            if norm is not None:
                assert weight is not None, "the shape says qk_norm, the teacher has no norm weights"
                norm.weight.copy_(weight)
