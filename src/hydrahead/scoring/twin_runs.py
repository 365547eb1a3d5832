"""One sample through the teacher, with the outputs of some heads replaced by their twins'.

Axes: u units patched at a time, t tokens, d hidden size, q q_heads, e head_dim, a answer tokens.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.context import build_context
from hydrahead.model.loading import load_model
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import record, replace
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.tasks import Sample

EMBEDDING_TOLERANCE = 1e-2
"""Twins' embeddings are the teacher's, up to a change of dtype."""


def load_twins(
    directory: Path, teacher: HydraForCausalLM, geometry: ModelGeometry
) -> HydraForCausalLM:
    """The twins of a teacher, on its device and in its dtype.

    Raises:
        HydraHeadError: not a hybrid, one of another model, or one in which some free slot still
            runs the
            teacher's attention.
    """
    weight = teacher.lm_head.weight
    twins = load_model(
        directory,
        dtype=weight.dtype,
        device=weight.device,
        attn_implementation=teacher.config._attn_implementation or "sdpa",
    )
    plan = twins.config.head_plan
    plan.geometry.require_same(geometry, what="the set of twins", where=directory)
    own = teacher.config.head_plan
    for layer in geometry.free_layers:
        kept = [
            unit
            for unit, spec in enumerate(plan.layers[layer].units)
            if spec in own.layers[layer].units
        ]
        if kept:
            raise HydraHeadError(
                f"these are no twins: {plan.unit} {kept[0]} of layer {layer} runs the teacher's "
                "attention",
                where=directory,
                mend="make them with: plan --full-fraction 0, convert, distill --stages align",
            )
    ours, theirs = (each.model.embed_tokens.weight.detach() for each in (teacher, twins))
    if float((ours - theirs).norm()) > EMBEDDING_TOLERANCE * float(ours.norm()):
        raise HydraHeadError(
            "these are twins of another model: their embeddings differ",
            where=directory,
            mend="align twins made from the model that is scored",
        )
    return twins


class SampleRun:
    """One sample: a clean run, its twins' outputs, and patched runs from any layer on."""

    def __init__(self, teacher: HydraForCausalLM, twins: HydraForCausalLM, sample: Sample) -> None:
        self._teacher = teacher
        self._num_layers = len(teacher.model.layers)
        device = teacher.lm_head.weight.device
        ids = torch.tensor([sample.prompt_ids + sample.answer_ids[:-1]], device=device)
        self._answer = torch.tensor(sample.answer_ids, device=device)
        self._answer_rows = slice(len(sample.prompt_ids) - 1, ids.shape[1])
        with record(teacher, ["residual_in", "attention_input"]) as clean:
            hidden = teacher.model(input_ids=ids, use_cache=False).last_hidden_state
        self._log_probs = self._answer_log_probs(hidden)
        self._residuals = [clean["residual_in", layer] for layer in range(self._num_layers)]
        replay = {
            ("attention_input", layer): _always(clean["attention_input", layer])
            for layer in range(self._num_layers)
        }
        with replace(twins, replay), record(twins, ["heads"]) as tape:
            twins.model(input_ids=ids, use_cache=False)
        self._twin_heads = [tape["heads", layer] for layer in range(self._num_layers)]

    def damage(self, layer: int, units: Sequence[Sequence[int]]) -> list[tuple[float, float]]:
        """What the twins of each unit, alone, do.

        Args:
            layer: the units' layer.
            units: the q_head slots of each unit.

        Returns:
            For every unit KL(teacher || patched) and the rise of the answer's loss, nats per answer
            token.
        """
        log_probs = self._answer_log_probs(self._run_from(layer, units))
        right = self._answer[None, :, None].expand(len(units), -1, 1)
        rise = (self._log_probs.gather(2, right[:1]) - log_probs.gather(2, right)).mean(dim=(1, 2))
        kl = functional.kl_div(
            log_probs, self._log_probs.expand_as(log_probs), reduction="none", log_target=True
        )
        # Rounding can leave a KL of zero slightly negative.
        damage = kl.sum(dim=2).mean(dim=1).clamp_min(0.0)
        return list(zip(damage.tolist(), rise.tolist(), strict=True))

    def _run_from(self, layer: int, units: Sequence[Sequence[int]]) -> Float[Tensor, "u t d"]:
        """Last hidden states of the teacher with each unit's twins in place, one row per unit."""
        model = self._teacher.model
        hidden = self._residuals[layer].expand(len(units), -1, -1)
        context = build_context(
            hidden,
            attention_mask=None,
            position_ids=None,
            past=None,
            rotary=model.rotary_emb,
            attn_implementation=self._teacher.config._attn_implementation or "sdpa",
        )

        def swap(heads: Tensor) -> Tensor:
            heads = heads.clone()
            for row, slots in enumerate(units):
                heads[row][:, list(slots)] = self._twin_heads[layer][0][:, list(slots)]
            return heads

        with replace(self._teacher, {("heads", layer): swap}):
            for block in model.layers[layer:]:
                hidden, _ = block(hidden, context)
        return model.norm(hidden)

    def _answer_log_probs(self, hidden: Float[Tensor, "u t d"]) -> Float[Tensor, "u a v"]:
        logits = self._teacher.lm_head(hidden[:, self._answer_rows])
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits.to(wide).log_softmax(dim=-1)


def _always(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value
