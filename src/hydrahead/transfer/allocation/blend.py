"""The blended model: in every layer both mixers run, and each head is their gated mean.

    y_h = z_u o_h^kept + (1 - z_u) o_h^replacement        u the unit of q_head h

after each side's own fusion and before the output projection, which they share, as they do the
parallel mixers (Falcon-H1's Mamba-2 heads), which no gate touches. The blend is the
form of DuoAttention and PruLong; behind fusion it also fits mixers whose outputs have no common
scale. It exists only while gates are trained: no cache, no generation, never saved.

Softmax mixers share the projections of the teacher (one module, so that training moves both); any
other mixer has those of its twin.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.contract import MixContext, MixerState
from hydrahead.mixers.tap_point import TapPoint
from hydrahead.model.attention import HydraAttention
from hydrahead.model.families.teacher import Teacher
from hydrahead.model.modeling import HydraForCausalLM, HydraLayer
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.transfer.allocation.pair import Pair
from hydrahead.transfer.layer_start import LayerStart
from hydrahead.transfer.twins import Twins


class Valve:
    """The gates in force during one forward and backward: [l rows, q_heads]."""

    def __init__(self) -> None:
        self.gates: Float[Tensor, "l q"] | None = None


class BlendedAttention(nn.Module):
    """A layer's attention twice, and one gate per q_head between them.

    Args:
        kept: What an open gate runs; its output projection and parallel mixers serve both.
        replacement: What a shut gate runs.
        valve: Where the gates come from.
        row: This layer's row of them.
    """

    def __init__(
        self, kept: HydraAttention, replacement: HydraAttention, valve: Valve, row: int
    ) -> None:
        super().__init__()
        self.kept = kept
        self.replacement = replacement
        self.replacement.o_proj = kept.o_proj
        self.replacement.parallel = kept.parallel
        self.heads_tap = TapPoint()
        self._valve = valve
        self._row = row

    def forward(
        self,
        hidden: Float[Tensor, "b t d"],
        context: MixContext,
        states: list[MixerState] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], None]:
        """The blended output; there are no states."""
        gates = self._valve.gates
        assert gates is not None, "a blended model runs inside Blend.gated"
        assert states is None, "a blended model has no cache"
        kept = self.kept.fused_heads(hidden, context)
        replacement = self.replacement.fused_heads(hidden, context)
        gate = gates[self._row].to(kept.dtype)[:, None]
        heads = self.heads_tap(torch.lerp(replacement, kept, gate))
        return self.kept.from_heads(heads, hidden, context), None


class Blend:
    """A teacher whose free layers are blended.

    Attributes:
        model: The model; its layers are `BlendedAttention` until `released`.
        layers: The free layers, ascending: row r of the gates belongs to `layers[r]`.
    """

    def __init__(
        self, model: HydraForCausalLM, attentions: dict[int, BlendedAttention], valve: Valve
    ) -> None:
        self.model = model
        self.layers = tuple(attentions)
        self._valve = valve
        self._attentions = attentions
        geometry = model.config.head_plan.geometry
        self._num_q_heads = geometry.num_q_heads

    @contextmanager
    def gated(self, gates: Float[Tensor, "l u"]) -> Iterator[None]:
        """Forwards (and their backwards) inside run with these gates, one per kv_head or layer."""
        self._valve.gates = gates.repeat_interleave(self._num_q_heads // gates.shape[1], dim=1)
        try:
            yield
        finally:
            self._valve.gates = None

    def release(self) -> tuple[HydraForCausalLM, dict[int, HydraAttention]]:
        """The model with its kept sides alone, and the other sides; the blend is over."""
        others: dict[int, HydraAttention] = {}
        for layer, attention in self._attentions.items():
            _block(self.model, layer).self_attn = attention.kept
            others[layer] = attention.replacement
        return self.model, others


def make_blend(
    model: HydraForCausalLM, teacher: Teacher, pair: Pair, *, twins: Twins | None, seed: int
) -> Blend:
    """Blend the free layers of `model`, which is the teacher, loaded; changes `model`.

    Args:
        model: On its device and in its compute dtype.
        teacher: The same checkpoint, open.
        pair: What to blend.
        twins: Checked with `Twins.require`.
        seed: For parameters that start at random.
    """
    geometry: ModelGeometry = model.config.head_plan.geometry
    sides = {
        spec: LayerStart(
            teacher,
            model.config,
            HeadPlan.uniform(geometry, spec),
            twins=twins,
            seed=seed,
            dtype=model.dtype,
        )
        for spec in (pair.kept, pair.replacement)
    }
    own = HeadPlan.all_full(geometry)
    valve = Valve()
    attentions: dict[int, BlendedAttention] = {}
    for row, layer in enumerate(geometry.free_layers):
        block = _block(model, layer)
        kept = cast(HydraAttention, block.self_attn)
        if own.spec_at(layer, 0) != pair.kept:
            kept = _started(sides, pair.kept, layer, kept)
        replacement = _started(sides, pair.replacement, layer, kept)
        if pair.shares_projections:
            _share_projections(kept, replacement)
        attentions[layer] = BlendedAttention(kept, replacement, valve, row)
        block.self_attn = attentions[layer]  # type: ignore[assignment]
    return Blend(model, attentions, valve)


def _started(
    sides: dict[MixerSpec, LayerStart], spec: MixerSpec, layer: int, beside: HydraAttention
) -> HydraAttention:
    """One side of a layer, on the device and with the output projection of `beside`."""
    attention = sides[spec].attention(layer)
    attention.o_proj = beside.o_proj
    return attention.to(beside.o_proj.weight.device).train(beside.training)


def _share_projections(kept: HydraAttention, replacement: HydraAttention) -> None:
    """One module for both, where they are the same: with or without norms they are not."""
    (mine,), (other,) = kept.mixers, replacement.mixers
    ours: Any = getattr(mine, "projections", None)
    theirs: Any = getattr(other, "projections", None)
    if ours is None or theirs is None:
        return
    shapes = [[(n, p.shape) for n, p in side.named_parameters()] for side in (ours, theirs)]
    if shapes[0] == shapes[1]:
        cast(Any, other).projections = ours


def _block(model: HydraForCausalLM, layer: int) -> HydraLayer:
    return cast(HydraLayer, model.model.layers[layer])
