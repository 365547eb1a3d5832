"""Bad input to loading, convert and export is one line, and leaves nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_model
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.transfer.convert import convert
from hydrahead.transfer.export import export
from tiny_teachers import save_teacher, tiny_config, tiny_model

WEIGHT = "model.layers.1.self_attn.k_proj.weight"


def _edit(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def _configure(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def _cut(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _scribble(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(b"\xff" * 100 + file.read_bytes()[100:])


def _lose_shard(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    tiny_model(tiny_config("llama")).save_pretrained(directory, max_shard_size="20KB")
    sorted(directory.glob("model-*.safetensors"))[1].unlink()


def _set_nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[WEIGHT][3, 2] = float("nan")


def _set_infinity(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"][0] = float("inf")


def _transpose(tensors: dict[str, torch.Tensor]) -> None:
    tensors[WEIGHT] = tensors[WEIGHT].T.contiguous()


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json"),
    "damaged config": (lambda d: (d / "config.json").write_text('{"model_type"'), "not valid JSON"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "no weights"),
    "pickled weights": (_pickle, "pytorch_model.bin"),
    "truncated": (_cut, "truncated: tensor"),
    "damaged": (_scribble, "damaged safetensors file"),
    "missing shard": (_lose_shard, "model-00002-of-"),
    "missing tensor": (lambda d: _edit(d, lambda t: t.pop(WEIGHT)), f"missing tensor {WEIGHT}"),
    "wrong shape": (lambda d: _edit(d, _transpose), f"{WEIGHT!r} has shape [32, 16]"),
    "wrong dtype": (
        lambda d: _edit(d, lambda t: t.update({WEIGHT: t[WEIGHT].to(torch.int8)})),
        f"{WEIGHT!r} has dtype I8",
    ),
    "superfluous tensor": (
        lambda d: _edit(
            d, lambda t: t.update({"model.layers.0.self_attn.q_norm.weight": torch.ones(8)})
        ),
        "does not have tensor model.layers.0.self_attn.q_norm.weight",
    ),
    "nan": (lambda d: _edit(d, _set_nan), f"{WEIGHT!r} holds 1 NaN"),
    "infinity": (lambda d: _edit(d, _set_infinity), "'model.norm.weight' holds 1 NaN or infinite"),
    "unknown architecture": (lambda d: _configure(d, model_type="lama"), "did you mean 'llama'?"),
    "layers that are not there": (lambda d: _configure(d, num_hidden_layers=4), "layers.3"),
    "another width": (lambda d: _configure(d, hidden_size=64), "config.json asks for"),
    "unsupported option": (
        lambda d: _configure(d, quantization_config={"quant_method": "gptq"}),
        "quantization_config",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_checkpoint_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    teacher = save_teacher(tmp_path / "teacher", "llama")
    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())
    spoil, told = BAD[name]
    spoil(teacher)
    attempts: tuple[Callable[[], object], ...] = (
        lambda: load_model(teacher),
        lambda: convert(teacher, plan, tmp_path / "out"),
    )
    for attempt in attempts:
        with pytest.raises(HydraHeadError) as caught:
            attempt()
        message = str(caught.value)
        assert told in message
        assert str(teacher) in message
        assert "\n" not in message
        assert caught.value.mend
    assert sorted(path.name for path in tmp_path.iterdir()) == ["teacher"]


HYBRID_WEIGHT = "model.layers.1.self_attn.mixers.0.projections.k.weight"
BAD_HYBRIDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (_cut, "truncated: tensor"),
    "missing tensor": (lambda d: _edit(d, lambda t: t.pop(HYBRID_WEIGHT)), HYBRID_WEIGHT),
    "no plan": (lambda d: _configure(d, plan=None), "plan"),
    "unknown mixer": (
        lambda d: _configure(
            d, plan=json.loads((d / "config.json").read_text().replace('"full"', '"ful"'))["plan"]
        ),
        "did you mean 'full'?",
    ),
    "wrong type": (lambda d: _configure(d, use_cache="yes"), "use_cache"),
    "no layers": (lambda d: _configure(d, num_hidden_layers=0), "num_hidden_layers is 0"),
    "another size": (lambda d: _configure(d, intermediate_size=40), "shape"),
}


@pytest.mark.parametrize("name", BAD_HYBRIDS)
def test_a_bad_hybrid_is_one_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    teacher = save_teacher(tmp_path / "teacher", "llama")
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher))
    hybrid = convert(teacher, plan, tmp_path / "hybrid")
    spoil, told = BAD_HYBRIDS[name]
    spoil(hybrid)
    for attempt in (lambda: load_model(hybrid), lambda: export(hybrid, tmp_path / "out")):
        with pytest.raises(HydraHeadError) as caught:
            attempt()
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("out*"))


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    teacher = save_teacher(tmp_path / "teacher", "llama")
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher))
    with pytest.raises(HydraHeadError, match="no such directory"):
        convert(tmp_path / "nowhere", plan, tmp_path / "out")
    with pytest.raises(HydraHeadError, match="no such file"):
        convert(teacher, tmp_path / "plan.json", tmp_path / "out")
    assert not list(tmp_path.glob("out*"))
