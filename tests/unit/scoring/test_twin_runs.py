"""Substitution damage equals a whole forward with the twin in place; wrong twins are refused."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from hand_built import chain_sample, hand_built, twins_of
from naive_patching import always
from torch.nn import functional

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.taps import record, replace
from hydrahead.scoring.twin_runs import SampleRun, load_twins


@torch.no_grad()
def test_damage_equals_a_whole_forward() -> None:
    teacher = hand_built(2, noise=0.1).double()
    twins = twins_of(teacher).double()
    sample = chain_sample(2)
    ids = torch.tensor([[*sample.prompt_ids, *sample.answer_ids[:-1]]])
    run = SampleRun(teacher, twins, sample)
    with record(teacher, ["attention_input"]) as clean:
        before = teacher(ids).logits[0, -1].log_softmax(-1)
    for layer in range(3):
        units = [(0, 1), (3,), (2,)]
        fast = run.damage(layer, units)
        replay = {("attention_input", layer): always(clean["attention_input", layer])}
        with replace(twins, replay), record(twins, ["heads"], [layer]) as twin:
            twins(ids)
        for slots, (kl, rise) in zip(units, fast, strict=True):
            swap = partial(swapped, list(slots), twin["heads", layer])
            with replace(teacher, {("heads", layer): swap}):
                after = teacher(ids).logits[0, -1].log_softmax(-1)
            wanted = functional.kl_div(after, before, log_target=True, reduction="sum")
            answer = sample.answer_ids[0]
            assert abs(kl - float(wanted)) < 1e-10
            assert abs(rise - float(before[answer] - after[answer])) < 1e-10


def swapped(slots: list[int], twin: torch.Tensor, heads: torch.Tensor) -> torch.Tensor:
    heads = heads.clone()
    heads[:, :, slots] = twin[:, :, slots]
    return heads


def test_twins_are_loaded_in_the_teachers_dtype(tmp_path: Path) -> None:
    teacher = hand_built(1)
    twins_of(teacher).save_pretrained(tmp_path / "twins")
    loaded = load_twins(tmp_path / "twins", teacher, teacher.config.head_plan.geometry)
    assert loaded.lm_head.weight.dtype == teacher.lm_head.weight.dtype
    assert not loaded.training


def test_wrong_twins_are_refused(tmp_path: Path) -> None:
    teacher = hand_built(1)
    geometry = teacher.config.head_plan.geometry
    twins_of(hand_built(2)).save_pretrained(tmp_path / "longer")
    with pytest.raises(HydraHeadError, match="longer"):
        load_twins(tmp_path / "longer", teacher, geometry)

    teacher.save_pretrained(tmp_path / "teacher")
    with pytest.raises(HydraHeadError, match=r"no twins.*runs the teacher's attention"):
        load_twins(tmp_path / "teacher", teacher, geometry)

    other = twins_of(teacher)
    with torch.no_grad():
        other.model.embed_tokens.weight.mul_(1.5)
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(HydraHeadError, match="twins of another model"):
        load_twins(tmp_path / "other", teacher, geometry)

    with pytest.raises(HydraHeadError):
        load_twins(tmp_path / "nowhere", teacher, geometry)
    assert json.loads((tmp_path / "other" / "config.json").read_text())["model_type"] == "hydrahead"
