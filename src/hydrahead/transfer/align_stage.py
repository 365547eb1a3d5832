"""Stage align: replaced heads learn to give what the teacher's heads gave (HydraHead Eq. 15).

Loss of a layer: squared error after W_o (W_o frozen) over the teacher's power,

    L_l = sum_tokens |y_l - y_l^teacher|^2 / mean_tokens |y_l^teacher|^2

so every layer counts alike whatever the size of its output; the stage's loss is the mean over
replaced layers and tokens: 0 is perfect, 1 is as bad as silence. For twins the same is taken per
q_head before W_o ("heads"), each head over its own power (at least 1e-3 of the layer's mean, so
that a silent head does not rule).

Only the replaced mixers and the fusion scalars of their layers train. Each layer's gradient is
taken as soon as its loss is there, so one layer's activations live at a time.
"""

from collections.abc import Iterator, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import record
from hydrahead.training.batch import Batch
from hydrahead.training.config import TrainConfig
from hydrahead.training.objectives import Objective, ObjectiveOutput
from hydrahead.transfer.replay import (
    ReplayedLayer,
    replaced_layers,
    replay_context,
    trace_teacher,
)
from hydrahead.transfer.stage_base import DistillConfig, PreparedStage, Stage

_TAPS = {"output": "attention_output", "heads": "heads"}
_LEAST_POWER = 1e-3


class AlignStage(Stage):
    """HALO's first stage: 320M tokens in rows of 512, rate 1e-3 to 1e-5."""

    defaults: ClassVar[TrainConfig] = TrainConfig(
        steps=20_000, batch_size=32, length=512, lr=1e-3, min_lr=1e-5, warmup_steps=50
    )
    layer_by_layer: ClassVar[bool] = True

    def prepare(
        self, hybrid: HydraForCausalLM, teacher: HydraForCausalLM | None, config: DistillConfig
    ) -> PreparedStage:
        """Let the replaced mixers and the fusion scalars learn.

        Raises:
            HydraHeadError: The teacher has another geometry, nothing was replaced, or per-head
                targets
                are asked for where mixers bring heads of their own.
        """
        assert teacher is not None
        plan = hybrid.config.head_plan
        plan.geometry.require_same(
            teacher.config.head_plan.geometry, what="the hybrid", where="the teacher"
        )
        layers = replaced_layers(hybrid, teacher.config.head_plan)
        if not layers:
            mend = "leave align out of the stages"
            raise HydraHeadError(
                "every head is the teacher's own, nothing can be aligned", mend=mend
            )
        if config.align_target == "heads" and any(layer.parallel for layer in plan.layers):
            mend = "align the layers' outputs instead"
            raise HydraHeadError("parallel mixers have no teacher head to align with", mend=mend)
        _let_learn(hybrid, layers)
        objective = AlignObjective(hybrid, teacher, layers, target=config.align_target)
        blocks = [layer.attention for layer in layers]
        return PreparedStage(objective=objective, blocks=blocks)


def _let_learn(hybrid: HydraForCausalLM, layers: Sequence[ReplayedLayer]) -> None:
    for parameter in hybrid.parameters():
        parameter.requires_grad_(False)
    for layer in layers:
        fusion = layer.attention.fusion
        for module in (*layer.mixers, *((fusion,) if fusion is not None else ())):
            for parameter in module.parameters():
                parameter.requires_grad_(True)


class AlignObjective(Objective):
    """Relative squared error of the replaced layers in replay.

    Args:
        hybrid: Its replaced layers run on the teacher's recorded inputs.
        teacher: Runs without gradients.
        layers: The replaced layers.
        target: "output" (after W_o) or "heads" (per q_head, before W_o).
    """

    def __init__(
        self,
        hybrid: HydraForCausalLM,
        teacher: HydraForCausalLM,
        layers: Sequence[ReplayedLayer],
        *,
        target: str,
    ) -> None:
        self._hybrid = hybrid
        self._teacher = teacher
        self._layers = layers
        self._target = target

    def __call__(self, batch: Batch) -> ObjectiveOutput:
        """The loss with all layers' graphs alive; for checks, `backward` is what trains."""
        losses = dict(self._losses(batch))
        return self._output(batch, torch.stack(list(losses.values())).sum(), losses)

    def backward(self, batch: Batch) -> ObjectiveOutput:
        """Add every layer's gradient, one layer at a time."""
        losses: dict[str, Tensor] = {}
        for name, loss in self._losses(batch):
            loss.backward()
            losses[name] = loss.detach()
        return self._output(batch, torch.stack(list(losses.values())).sum(), losses)

    def _losses(self, batch: Batch) -> Iterator[tuple[str, Tensor]]:
        """(name, loss / number of layers) of each replaced layer."""
        indices = [layer.index for layer in self._layers]
        trace = trace_teacher(self._teacher, batch, indices, _TAPS[self._target])
        like = trace.inputs[indices[0]].to(self._hybrid.dtype)
        context = replay_context(self._hybrid, like, batch)
        for layer in self._layers:
            hidden = trace.inputs.pop(layer.index).to(self._hybrid.dtype)
            wanted = trace.targets.pop(layer.index).float()
            if self._target == "heads":
                with record(self._hybrid, ["heads"], layers=[layer.index]) as tape:
                    layer.attention(hidden, context, None)
                given = tape["heads", layer.index].float()
                if len(layer.slots) < given.shape[2]:
                    slots = list(layer.slots)
                    given, wanted = given[:, :, slots], wanted[:, :, slots]
                loss = head_error(given, wanted)
            else:
                loss = output_error(layer.attention(hidden, context, None)[0].float(), wanted)
            yield f"layer_{layer.index}", loss / len(self._layers)

    def _output(self, batch: Batch, loss: Tensor, losses: dict[str, Tensor]) -> ObjectiveOutput:
        sums = {name: value.detach() * len(self._layers) for name, value in losses.items()}
        weight = torch.tensor(float(batch.num_tokens), device=loss.device)
        return ObjectiveOutput(loss=loss, weight=weight, sums=sums)


def output_error(given: Tensor, wanted: Tensor) -> Tensor:
    """Squared error summed over tokens, over the target's mean power per token."""
    power = wanted.square().sum(-1).mean().clamp_min(1e-12)
    return (given - wanted).square().sum() / power


def head_error(given: Tensor, wanted: Tensor) -> Tensor:
    """The same per q_head ([b t q e]), each over its own power, averaged over q_heads."""
    power = wanted.square().sum(-1).mean(dim=(0, 1))
    power = power.clamp_min(_LEAST_POWER * float(power.mean())).clamp_min(1e-12)
    errors = (given - wanted).square().sum(-1).sum(dim=(0, 1))
    return (errors / power).mean()
