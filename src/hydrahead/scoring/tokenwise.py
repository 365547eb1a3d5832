"""The parts of a teacher that act on each position alone: norms, MLPs, query projections, readout.

With every attention output frozen nothing moves between positions, so a patched run is these parts
applied to the readout rows: no forward over the sequence. They run in fp32 or wider whatever the
model's dtype, for a head's effect can be smaller than what bf16 can add to a residual.

Axes: p patched runs, r readout rows, d hidden size, h q_heads, e head_dim.
"""

import copy
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hydrahead.mixers.attention_base import AttentionMixer
from hydrahead.mixers.projections import apply_rope
from hydrahead.model.modeling import HydraForCausalLM, HydraLayer

Module = TypeVar("Module", bound=nn.Module)

TOKENS_PER_CALL = 1 << 13
"""Rows that go through an MLP at a time; bounds the memory of many patched runs."""


class LayerParts:
    """One layer of the teacher, position by position.

    Attributes:
        write: W_o with its multiplier, cut by q_head, [h, e, d]: head h adds `output_h @ write[h]`
            to the residual.
        reach: sliding window of the layer's attention, None if it has none.
    """

    def __init__(self, layer: HydraLayer, num_q_heads: int) -> None:
        self._layer, self._mixer = layer, _softmax_mixer(layer)
        weight = layer.self_attn.o_proj.weight * layer.self_attn.out_factor
        self.write = weight.view(weight.shape[0], num_q_heads, -1).permute(1, 2, 0)
        self.reach = self._mixer.reach

    def after_attention(self, residual: Float[Tensor, "p r d"]) -> Float[Tensor, "p r d"]:
        """From the residual after the attention to the layer's end: x + MLP(norm(x))."""
        return residual + _in_chunks(self._mlp, residual)

    def queries(
        self,
        residual: Float[Tensor, "p r d"],
        cos: Float[Tensor, "r e"],
        sin: Float[Tensor, "r e"],
    ) -> Float[Tensor, "p r h e"]:
        """Queries (normed, rotated) that the layer makes of its input."""
        q, _, _ = self._mixer.projections.project(self._layer.input_layernorm(residual))
        runs = len(residual)
        return apply_rope(q, cos.expand(runs, -1, -1), sin.expand(runs, -1, -1))

    def _mlp(self, residual: Tensor) -> Tensor:
        return self._layer.mlp(self._layer.post_attention_layernorm(residual))


class TokenwiseModel:
    """A teacher's token-wise parts in fp32 or wider.

    Args:
        model: an all-full `HydraForCausalLM`.
    """

    def __init__(self, model: HydraForCausalLM) -> None:
        self._model = model
        self.num_layers = len(model.model.layers)
        self.num_q_heads = model.config.num_attention_heads
        self.dtype = torch.promote_types(model.lm_head.weight.dtype, torch.float32)

    @property
    def reaches(self) -> tuple[int | None, ...]:
        """Sliding window of every layer, None where it has none."""
        return tuple(_softmax_mixer(self._block(index)).reach for index in range(self.num_layers))

    def layer(self, index: int) -> LayerParts:
        """Layer `index`; a widened copy, made for this call, if the model is in half precision."""
        return LayerParts(_widened(self._block(index), self.dtype), self.num_q_heads)

    def _block(self, index: int) -> HydraLayer:
        return cast(HydraLayer, self._model.model.layers[index])

    def final_norm(self, residual: Float[Tensor, "p r d"]) -> Float[Tensor, "p r d"]:
        """The norm before the unembedding."""
        return _in_chunks(_widened(self._model.model.norm, self.dtype), residual)

    def span_difference(
        self, residual: Float[Tensor, "p r d"], direction: Float[Tensor, "r d"]
    ) -> Float[Tensor, " p"]:
        """Readout m of every run from its last residual (see `readout.span_direction`)."""
        normed = self.final_norm(residual)
        return (normed * direction.to(normed)).sum(dim=(-2, -1))

    def rotation(
        self, positions: Int[Tensor, " r"], width: int
    ) -> tuple[Float[Tensor, "r e"], Float[Tensor, "r e"]]:
        """Rotation tables of the rows, as in a forward over `width` tokens (some look at that)."""
        like = torch.zeros((), dtype=self.dtype, device=positions.device)
        everywhere = torch.arange(width, device=positions.device)[None]
        cos, sin = self._model.model.rotary_emb(like, everywhere)
        return cos[0, positions].to(self.dtype), sin[0, positions].to(self.dtype)


def _softmax_mixer(layer: HydraLayer) -> AttentionMixer:
    (mixer,) = layer.self_attn.mixers
    assert isinstance(mixer, AttentionMixer), "a teacher's attention is softmax"
    return mixer


def _widened(module: Module, dtype: torch.dtype) -> Module:
    first = next(module.parameters())
    return module if first.dtype == dtype else copy.deepcopy(module).to(dtype)


def _in_chunks(function: Callable[[Tensor], Tensor], rows: Float[Tensor, "p r d"]) -> Tensor:
    flat = rows.flatten(0, 1)
    return torch.cat([function(chunk) for chunk in flat.split(TOKENS_PER_CALL)]).view_as(rows)
