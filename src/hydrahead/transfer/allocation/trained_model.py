"""The weights that were trained together with the gates, as directories `convert` reads.

model/ is the all-full model with the trained weights: the teacher of the plan. Where the second
mixer has projections of its own, twins/ holds it, trained as well, in every slot.
"""

import json
from pathlib import Path

from torch import Tensor, nn

from hydrahead.core.jsonio import write_text
from hydrahead.model.checkpoint import ShardWriter
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.teacher import Teacher
from hydrahead.model.fp32 import FP32_MODULES
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.transfer.allocation.blend import Blend
from hydrahead.transfer.allocation.pair import Pair
from hydrahead.transfer.artefact_files import copy_companions
from hydrahead.transfer.model_card import model_card

_ARCHITECTURES = ["HydraForCausalLM"]


def write_trained(directory: Path, blend: Blend, teacher: Teacher, pair: Pair) -> Path:
    """Write model/ (and twins/) into `directory`; ends the blend.

    Returns:
        The model's directory.
    """
    model, others = blend.release()
    geometry = teacher.geometry
    target = directory / "model"
    _write(target, model, HeadPlan.all_full(geometry), teacher, model.config)
    if pair.needs_twins:
        for layer, attention in others.items():
            model.model.layers[layer].self_attn = attention  # type: ignore[assignment]
        plan = HeadPlan.uniform(geometry, pair.replacement)
        _write(directory / "twins", model, plan, teacher, model.config)
    return target


def _write(
    target: Path, model: nn.Module, plan: HeadPlan, teacher: Teacher, like: HydraConfig
) -> None:
    target.mkdir(exist_ok=True)
    with ShardWriter(target) as writer:
        for name, parameter in model.named_parameters():
            writer.add(name, _stored(name, parameter, teacher))
    config = HydraConfig(**{**like.to_dict(), "plan": json.loads(plan.to_json())})
    config.architectures = _ARCHITECTURES
    config.dtype = teacher.dtype
    config.fusion_calibrated = True
    config.save_pretrained(target)
    card = model_card(
        f"{teacher.directory.name}, trained with its gates",
        plan,
        teacher_card=teacher.directory / "README.md",
        from_twins=False,
    )
    write_text(target / "README.md", card)
    copy_companions(teacher.directory, target)


def _stored(name: str, parameter: Tensor, teacher: Teacher) -> Tensor:
    """In the checkpoint's dtype, but fp32 what has to be."""
    kept = set(FP32_MODULES) & set(name.split("."))
    return parameter.detach().to(parameter.dtype if kept else teacher.dtype)
