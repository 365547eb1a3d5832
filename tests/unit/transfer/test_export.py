"""export: what a family can hold comes back, anything else is named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hydrahead.core.artefacts import read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.transfer.convert import convert
from hydrahead.transfer.export import export
from tiny_teachers import padded_batch, save_teacher, tiny_config, tiny_model


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher", "qwen2", "late_windows")


def test_the_weights_come_back_byte_for_byte(teacher: Path, tmp_path: Path) -> None:
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher), "q_head")
    back = export(convert(teacher, plan, tmp_path / "hybrid"), tmp_path / "back")
    mine, theirs = load_file(back / "model.safetensors"), load_file(teacher / "model.safetensors")
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    assert (back / "tokenizer.json").read_bytes() == (teacher / "tokenizer.json").read_bytes()
    assert load_tokenizer(back).get_vocab() == load_tokenizer(teacher).get_vocab()
    assert read_record(back).kind == "checkpoint"


def test_a_trained_all_full_hybrid_exports_what_it_computes(teacher: Path, tmp_path: Path) -> None:
    """As after distillation: other weights, saved by transformers in another dtype."""
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher))
    hybrid = load_model(convert(teacher, plan, tmp_path / "hybrid"))
    with torch.no_grad():
        for parameter in hybrid.parameters():
            parameter.mul_(1.01)
    hybrid.to(torch.bfloat16).save_pretrained(tmp_path / "trained")
    back = export(tmp_path / "trained", tmp_path / "back")
    assert json.loads((back / "config.json").read_text())["dtype"] == "bfloat16"
    theirs = AutoModelForCausalLM.from_pretrained(back).float().eval()
    ids, _, _ = padded_batch(67)
    with torch.no_grad():
        mine = load_model(tmp_path / "trained")(ids).logits
        assert torch.allclose(mine, theirs(ids).logits, atol=1e-5 * mine.abs().max().item())


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (GatedDeltaSpec(), "layer 0, kv_head 1 runs gated_delta"),
        (WindowSpec(window=9), "layer 0, kv_head 1 runs window"),
        (FullSpec(rope=False), r"layer 0, kv_head 1 runs full \(rope=False\)"),
    ],
)
def test_what_the_family_cannot_hold_is_named(
    teacher: Path, tmp_path: Path, spec: object, told: str
) -> None:
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher)).replace({(0, 1): spec})
    hybrid = convert(teacher, plan, tmp_path / "hybrid")
    with pytest.raises(HydraHeadError, match=told):
        export(hybrid, tmp_path / "back")
    assert not list(tmp_path.glob("back*"))


def test_a_checkpoint_of_a_family_is_not_exported(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match=r"already a checkpoint of its family \(qwen2\)"):
        export(teacher, tmp_path / "back")


def test_a_legacy_dtype_key_keeps_its_spelling(tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    tiny_model(tiny_config("llama")).to(torch.bfloat16).save_pretrained(teacher)
    path = teacher / "config.json"
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher))
    back = export(convert(teacher, plan, tmp_path / "hybrid"), tmp_path / "back")
    assert json.loads((back / "config.json").read_text()) == config
