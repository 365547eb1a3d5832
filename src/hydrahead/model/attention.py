"""One layer's attention: the plan's mixers side by side, fusion, output projection.

    x -> mixers -> outputs in slot order -> fusion -> W_o  (+ parallel mixers, which have a W_o of
    their own); a family's multiplier is on W_o alone

The mixers' heads come out in mixer order and go back to the teacher's slots, so W_o is the
teacher's own.
"""

import itertools
from operator import itemgetter
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hydrahead.mixers.build import build_mixer, build_parallel, mixer_shape
from hydrahead.mixers.contract import MixContext, Mixer, MixerShape, MixerState
from hydrahead.mixers.head_order import runs_of
from hydrahead.mixers.tap_point import TapPoint
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.fusion import Fusion
from hydrahead.model.scaled import scaled
from hydrahead.plan.assignment import HeadGroup
from hydrahead.plan.head_plan import HeadPlan


class HydraAttention(nn.Module):
    """The mixers of one layer.

    Attributes:
        mixers: one per distinct spec, in the order of `plan.layer_mixers(layer)`.
        parallel: mixers with heads of their own, added after the output projection.
        fusion: None when no slot of the layer asks for it.
    """

    def __init__(self, config: HydraConfig, plan: HeadPlan, layer: int) -> None:
        super().__init__()
        assignments = plan.layer_mixers(layer)
        num_q_heads = config.num_attention_heads
        self.layer = layer
        self.mixers = nn.ModuleList(
            build_mixer(assignment.spec, attention_shape(config, assignment.groups))
            for assignment in assignments
        )
        self.parallel = nn.ModuleList(
            build_parallel(spec, attention_shape(config, ()))
            for spec in plan.layers[layer].parallel
        )
        # Slot -> (mixer, head of it), then the runs of heads whose outputs follow each other.
        places = {
            slot: (mixer, head)
            for mixer, assignment in enumerate(assignments)
            for head, slot in enumerate(assignment.q_slots)
        }
        assert sorted(places) == list(range(num_q_heads)), "every q_head has exactly one mixer"
        by_mixer = itertools.groupby((places[slot] for slot in range(num_q_heads)), itemgetter(0))
        self._sources = [
            (mixer, run)
            for mixer, found in by_mixer
            for run in runs_of([head for _, head in found])
        ]
        normalised = {
            slot: assignment.spec.normalise_output
            for assignment in assignments
            for slot in assignment.q_slots
        }
        self.fusion: Fusion | None = None
        if any(normalised.values()):
            self.fusion = Fusion(tuple(normalised[slot] for slot in range(num_q_heads)))
        self.o_proj = nn.Linear(
            num_q_heads * config.head_dim, config.hidden_size, bias=config.attention_output_bias
        )
        self.out_factor = config.attention_out_multiplier
        self.heads_tap = TapPoint()

    def init_states(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> list[MixerState]:
        """Empty states of the mixers, then of the parallel ones."""
        return [
            mixer.init_state(batch, capacity=capacity, device=device, dtype=dtype)
            for mixer in self._all()
        ]

    def forward(
        self,
        hidden: Float[Tensor, "b t d"],
        context: MixContext,
        states: list[MixerState] | None = None,
    ) -> tuple[Float[Tensor, "b t d"], list[MixerState] | None]:
        """The layer's attention output, and the next states (None if none were given)."""
        outputs: list[Tensor] = []
        next_states: list[MixerState] = []
        for index, mixer in enumerate(self._all()):
            output, state = mixer(hidden, context, None if states is None else states[index])
            outputs.append(output)
            if states is not None:
                assert state is not None, "a mixer that is given a state returns one"
                next_states.append(state)
        heads = self.heads_tap(self._fuse(outputs[: len(self.mixers)]))
        result = self._finish(heads, outputs[len(self.mixers) :])
        return result, None if states is None else next_states

    def from_heads(
        self, heads: Float[Tensor, "b t q e"], hidden: Float[Tensor, "b t d"], context: MixContext
    ) -> Float[Tensor, "b t d"]:
        """The layer's attention output where `heads` stand for `fused_heads`; without states."""
        parallel = cast(list[Mixer], [*self.parallel])
        return self._finish(heads, [mixer(hidden, context, None)[0] for mixer in parallel])

    def _finish(
        self, heads: Float[Tensor, "b t q e"], parallel: list[Tensor]
    ) -> Float[Tensor, "b t d"]:
        result = scaled(self.o_proj(heads.flatten(2)), self.out_factor)
        for output in parallel:
            result = result + output
        return result

    def fused_heads(
        self, hidden: Float[Tensor, "b t d"], context: MixContext
    ) -> Float[Tensor, "b t q e"]:
        """What the output projection would read, in slot order; without states."""
        outputs = [mixer(hidden, context, None)[0] for mixer in cast(list[Mixer], [*self.mixers])]
        return self._fuse(outputs)

    def _fuse(self, outputs: list[Tensor]) -> Float[Tensor, "b t q e"]:
        heads = outputs[0]
        if len(self._sources) > 1:
            heads = torch.cat([outputs[mixer][:, :, run] for mixer, run in self._sources], dim=2)
        return heads if self.fusion is None else self.fusion(heads)

    def _all(self) -> list[Mixer]:
        return cast(list[Mixer], [*self.mixers, *self.parallel])


def attention_shape(config: HydraConfig, groups: tuple[HeadGroup, ...]) -> MixerShape:
    """The shape of a mixer of `groups` (of none: a parallel one) in a model of `config`."""
    return mixer_shape(
        groups,
        hidden_size=config.hidden_size,
        head_dim=config.head_dim,
        num_q_heads=config.num_attention_heads,
        attention_bias=config.attention_bias,
        qk_norm=config.qk_norm,
        norm_eps=config.rms_norm_eps,
        input_multiplier=config.attention_in_multiplier,
        key_multiplier=config.key_multiplier,
    )
