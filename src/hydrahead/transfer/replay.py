"""Replay: each attention of the hybrid runs on what the teacher's layer read (HydraHead Eq. 15).

One teacher forward records the input and the output of every attention layer. Layers then are
independent: errors do not add up through depth, and the activations of one layer at a time are
enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.mixers.contract import HeadMixer, MixContext
from hydrahead.model.attention import HydraAttention
from hydrahead.model.context import build_context
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import record
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.training.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedLayer:
    """A layer in which some heads differ from the teacher's."""

    index: int
    attention: HydraAttention
    mixers: tuple[HeadMixer, ...]
    """The hybrid's mixers that are not the teacher's own."""
    slots: tuple[int, ...]
    """q_heads they run, ascending."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherTrace:
    """What the teacher's attention layers read and gave on one batch, by layer."""

    inputs: dict[int, Float[Tensor, "b t d"]]
    targets: dict[int, Tensor]


def attentions(model: HydraForCausalLM) -> list[HydraAttention]:
    """The attention of every layer."""
    return [cast(HydraAttention, block.self_attn) for block in model.model.layers]


def replaced_layers(hybrid: HydraForCausalLM, teacher_plan: HeadPlan) -> list[ReplayedLayer]:
    """Layers of the hybrid with mixers that are not the teacher's own, or that stand beside it."""
    layers: list[ReplayedLayer] = []
    plan = hybrid.config.head_plan
    for index, attention in enumerate(attentions(hybrid)):
        own = {q: a.spec for a in teacher_plan.layer_mixers(index) for q in a.q_slots}
        assigned = zip(attention.mixers, plan.layer_mixers(index), strict=True)
        changed = [
            (cast(HeadMixer, mixer), assignment.q_slots)
            for mixer, assignment in assigned
            if any(own[q] != assignment.spec for q in assignment.q_slots)
        ]
        parallel = [cast(HeadMixer, mixer) for mixer in attention.parallel]
        mixers = (*(mixer for mixer, _ in changed), *parallel)
        if mixers:
            slots = tuple(sorted(q for _, slots in changed for q in slots))
            layers.append(
                ReplayedLayer(index=index, attention=attention, mixers=mixers, slots=slots)
            )
    return layers


@torch.no_grad()
def trace_teacher(
    teacher: HydraForCausalLM, batch: Batch, layers: Sequence[int], target: str
) -> TeacherTrace:
    """One teacher forward (no logits), recording what `layers` read and gave.

    Args:
        teacher: The teacher.
        batch: Packed rows.
        layers: Which layers.
        target: The tap that is compared: "attention_output" [b t d] or "heads" [b t q_heads e].
    """
    with record(teacher, ["attention_input", target], layers=layers) as tape:
        teacher.model(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
    return TeacherTrace(
        inputs={layer: tape["attention_input", layer] for layer in layers},
        targets={layer: tape[target, layer] for layer in layers},
    )


def replay_context(hybrid: HydraForCausalLM, hidden: Tensor, batch: Batch) -> MixContext:
    """The context the hybrid's mixers see; built once per batch."""
    return build_context(
        hidden,
        attention_mask=None,
        position_ids=batch.position_ids,
        past=None,
        rotary=hybrid.model.rotary_emb,
        attn_implementation=hybrid.config._attn_implementation or "sdpa",
    )
