"""`export`: an all-full hybrid becomes a checkpoint of its family again.

Every tensor keeps its stored bytes and goes back to the family's name; config.json is the teacher's
own, with the fields that changed since.
"""

from pathlib import Path
from typing import Any

import torch

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import write_json
from hydrahead.model.checkpoint import ShardWriter
from hydrahead.model.families.all_full import foreign_mixer
from hydrahead.model.families.base import Family
from hydrahead.model.families.table import FAMILIES
from hydrahead.model.families.teacher import Teacher, is_hybrid, open_teacher, read_config
from hydrahead.model.families.values import read_hybrid_config
from hydrahead.model.hub import resolve_model_dir
from hydrahead.transfer.artefact_files import copy_companions

KIND = "checkpoint"


def export(model: str | Path, out: Path, *, force: bool = False) -> Path:
    """Write the family's checkpoint of an all-full hybrid.

    Args:
        model: A directory of ours whose plan is the teacher's own attention everywhere.
        out: The directory to make.
        force: Replace an `out` made from other inputs.

    Returns:
        `out`, which transformers loads without this package.

    Raises:
        HydraHeadError: not a hybrid, or one with a mixer that its family does not have (named), or
            missing or damaged weights; no artefact is left.
    """
    source = resolve_model_dir(model)
    config = read_config(source)
    if not is_hybrid(config):
        raise HydraHeadError(
            f"already a checkpoint of its family ({config.get('model_type')})",
            where=source,
            mend="export takes what convert and distill write",
        )
    hybrid = read_hybrid_config(config, where=source / "config.json")
    reason = foreign_mixer(hybrid.head_plan)
    if reason:
        raise HydraHeadError(
            f"cannot be written as its family: {reason}",
            where=source,
            mend="only an all-full hybrid without fusion can be exported",
        )
    teacher = open_teacher(source)
    family: Family = FAMILIES.load(teacher.config.family)
    with open_artefact(
        out,
        kind=KIND,
        configuration={"family": family.name},
        parents={"model": source},
        force=force,
    ) as work:
        if not work.reused:
            _write_weights(teacher, family, work)
            write_json(work.directory / "config.json", _config(teacher, family))
            copy_companions(source, work.directory)
    return Path(out)


def _write_weights(teacher: Teacher, family: Family, work: ArtefactWork) -> None:
    with ShardWriter.resuming(work.directory, resumed=work.resumed) as writer:
        names = family.weights
        for name in teacher.outer_names():
            writer.add(names.stored(name), teacher.outer(name))
        for layer in range(teacher.config.num_hidden_layers):
            for name, tensor in teacher.heads(layer).named(names, layer):
                writer.add(name, tensor)
            for name, tensor in teacher.rest(layer):
                writer.add(names.stored(name), tensor)
            for name, tensor in teacher.parallel(layer):
                writer.add(names.stored(name), _narrowed(tensor, teacher.dtype))


def _config(teacher: Teacher, family: Family) -> dict[str, Any]:
    config = family.to_teacher(teacher.config)
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    stored = _name(teacher.dtype)
    if config.get(key, "float32") != stored:
        config[key] = stored
    return config


def _narrowed(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In the checkpoint's dtype if no digit is lost: gates are fp32 here, whatever they came in."""
    narrow = tensor.to(dtype)
    return narrow if torch.equal(narrow.to(tensor.dtype), tensor) else tensor


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
