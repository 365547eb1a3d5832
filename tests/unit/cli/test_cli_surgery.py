"""`hydrahead restore-qk` and `hydrahead diagnose` as a user meets them."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import Shell
from hydrahead.assets import __file__ as assets
from hydrahead.core.jsonio import read_json
from hydrahead.model.checkpoint import SafetensorsReader
from surgery_cases import save_adapter

TEACHER = Path(assets).parent / "small_teacher"


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The small teacher, and the same with noise for queries and keys in layers 4 and 5."""
    folder = tmp_path_factory.mktemp("pair")
    before, after = folder / "pre", folder / "post"
    for directory in (before, after):
        shutil.copytree(TEACHER, directory)
        (directory / "artifact.json").unlink()
    path = after / "model.safetensors"
    tensors = load_file(path)
    torch.manual_seed(0)
    for name, value in tensors.items():
        here = any(f".layers.{layer}.self_attn." in name for layer in (4, 5))
        if here and ("q_proj" in name or "k_proj" in name):
            tensors[name] = (value.float().std() * torch.randn(value.shape)).to(value.dtype)
    save_file(tensors, path, metadata={"format": "pt"})
    return before, after


def test_restoring_and_its_report(shell: Shell, pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed, _ = shell("restore-qk", *pair, out, "--report")
    assert "qk of layers 0, 1, 2, 3, 4, 5, 6, 7 restored and verified" in printed
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if " full " in line}
    assert rows["3"][2:4] == ["0.00", "%"]
    assert float(rows["4"][2]) > 100
    # Only q and k had changed, so the restored model is PRE, byte for byte.
    weights = [path / "model.safetensors" for path in (pair[0], out)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    data = shell.json("restore-qk", *pair, tmp_path / "json", "--layers", "4", "--report")
    assert data["layers"] == [4]
    assert data["changes"][0]["q"] > 1
    assert data["tokenizers_compared"]


def test_mistakes_are_one_line(shell: Shell, pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    cases = {
        ("restore-qk", pair[0], pair[0], out): "PRE and POST are the same directory",
        ("restore-qk", *pair, out, "--variant", "qk+norm"): "did you mean 'qk+norms'?",
        ("restore-qk", *pair, out, "--layers", "9"): "layer 9 has no full attention",
        ("restore-qk", *pair, out, "--lambda", "1"): "only the variant pro has a lambda",
        ("restore-qk", *pair, out, "--variant", "qk+bias"): "no biases to restore",
        ("restore-qk", *pair, out, "--merge"): "not an adapter",
        ("restore-qk", pair[0], tmp_path / "nowhere", out): "nowhere",
        ("diagnose", *pair, "--out", out, "--task", "mqar"): "has no depth",
        ("diagnose", *pair, "--out", out, "--length", "4096"): "beyond the model's context",
        ("diagnose", *pair, "--out", out, "--length", "32"): "tokens are too few",
    }
    for arguments, message in cases.items():
        assert message in shell.mistake(*arguments), arguments
        assert not list(tmp_path.iterdir()), arguments


def test_a_diagnosis(shell: Shell, pair: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    printed, _ = shell(
        *("diagnose", *pair, "--out", out, "--length", "192", "--samples", "3", "--device", "cpu"),
        *("--batch-size", "15"),
    )
    assert "recall, 182 tokens back" in printed
    assert "layer 4: attention distance" in printed
    assert "restoring gives back" in printed
    assert (out / "diagnosis.png").stat().st_size > 5000
    found = read_json(out / "diagnosis.json")
    means = {
        name: sum(cell["summary"]["mean"] for cell in cells) / len(cells)
        for name, cells in found["recall"].items()
    }
    assert means["before"] == means["restored"] > means["after"] + 0.2
    assert [cell["distance"] for cell in found["recall"]["after"]] == [10, 48, 96, 144, 182]
    looks = {name: layers[4]["mean_distance"] for name, layers in found["attention"].items()}
    assert looks["before"] == looks["restored"] != looks["after"]
    for layers in found["attention"].values():
        assert all(sum(layer["shares"]) == pytest.approx(1) for layer in layers)
    moved = {change["layer"]: change["q"] for change in found["changes"]}
    assert [layer for layer, value in moved.items() if value > 0] == [4, 5]
    inspected, _ = shell("inspect", out)
    assert inspected.splitlines()[0:9] == printed.splitlines()[0:9]
    with pytest.raises(Exception, match="no weights"):
        SafetensorsReader(out)  # the copies it needed are gone


def test_an_adapter_is_inspected(shell: Shell, pair: tuple[Path, Path], tmp_path: Path) -> None:
    modules = ["model.layers.0.mlp.up_proj", "model.layers.4.self_attn.q_proj"]
    adapter = save_adapter(tmp_path / "adapter", pair[0], modules)
    shell("restore-qk", pair[0], adapter, tmp_path / "out")
    printed, _ = shell("inspect", tmp_path / "out")
    assert "LoRA adapter of rank 2 on 1 modules\nmodel.layers.0.mlp.up_proj\n" in printed
