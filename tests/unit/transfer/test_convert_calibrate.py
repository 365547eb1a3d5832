"""Calibration: gamma is the size of the teacher's own head outputs."""

from pathlib import Path

import pytest
import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_model
from hydrahead.model.taps import record
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.training.batch import IGNORE, Batch
from hydrahead.transfer.calibrate import calibrate_fusion, measure_head_sizes
from hydrahead.transfer.convert import convert
from tiny_teachers import save_teacher


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher", "qwen3")


def _batches(count: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(3)
    return [
        Batch(
            input_ids=torch.randint(0, 67, (2, 24), generator=generator),
            labels=torch.full((2, 24), IGNORE),
            position_ids=torch.arange(24).remainder(15).expand(2, -1).contiguous(),
        )
        for _ in range(count)
    ]


def _hybrid(teacher: Path, out: Path, **settings: Path) -> Path:
    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())
    plan = plan.replace({(0, 1): FullSpec(), (2, 0): FullSpec(), (2, 1): FullSpec()})
    return convert(teacher, plan, out, **settings)


def test_gamma_is_the_teachers_output_size(teacher: Path, tmp_path: Path) -> None:
    hybrid, full = load_model(_hybrid(teacher, tmp_path / "hybrid")), load_model(teacher)
    batches = _batches(3)
    report = calibrate_fusion(hybrid, full, batches)
    pieces = []
    with torch.no_grad():
        for batch in batches:
            with record(full, ["heads"]) as tape:
                full.model(
                    input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
                )
            pieces.append(dict(tape))
    for layer, replaced in ((0, [0, 1]), (1, [0, 1, 2, 3])):
        outputs = torch.cat([piece["heads", layer] for piece in pieces])
        rms = outputs.square().mean(dim=(0, 1, 3)).sqrt()
        gamma = hybrid.model.layers[layer].self_attn.fusion.gamma
        assert torch.allclose(gamma[replaced], rms[replaced], rtol=1e-5)
        kept = [slot for slot in range(4) if slot not in replaced]
        assert torch.equal(gamma[kept], torch.ones(len(kept)))
    assert hybrid.model.layers[2].self_attn.fusion is None
    assert hybrid.config.fusion_calibrated
    assert report["num_tokens"] == 3 * 48
    assert report["num_heads"] == 6


def test_a_calibrated_head_is_as_large_as_the_teachers(teacher: Path, tmp_path: Path) -> None:
    hybrid, full = load_model(_hybrid(teacher, tmp_path / "hybrid")), load_model(teacher)
    (batch,) = _batches(1)
    calibrate_fusion(hybrid, full, [batch])
    sizes = []
    with torch.no_grad():
        for model in (hybrid, full):
            with record(model, ["heads"], layers=[0]) as tape:
                model.model(
                    input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
                )
            sizes.append(tape["heads", 0].square().mean(dim=(0, 1, 3)).sqrt())
    assert torch.allclose(sizes[0], sizes[1], rtol=1e-3)


def test_no_batches_are_refused(teacher: Path) -> None:
    with pytest.raises(HydraHeadError, match="no text to calibrate on"):
        measure_head_sizes(load_model(teacher), [])


def test_convert_calibrates_on_a_text(teacher: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(" ".join(f"w{i % 64}" for i in range(4000)))
    plain = load_model(_hybrid(teacher, tmp_path / "plain"))
    done = load_model(_hybrid(teacher, tmp_path / "done", calibrate=text))
    assert done.config.fusion_calibrated
    assert not plain.config.fusion_calibrated
    gamma = done.model.layers[1].self_attn.fusion.gamma
    assert (gamma > 0).all()
    assert not torch.equal(gamma, torch.ones(4))
    other = dict(plain.named_parameters())
    for name, parameter in done.named_parameters():
        assert name.endswith("gamma") or torch.equal(parameter, other[name])


@pytest.mark.parametrize("content", [b"", b"\x00\xff\xfe\x80binary\x00" * 50])
def test_an_empty_or_binary_text_leaves_nothing(
    teacher: Path, tmp_path: Path, content: bytes
) -> None:
    text = tmp_path / "text.txt"
    text.write_bytes(content)
    with pytest.raises(HydraHeadError) as caught:
        _hybrid(teacher, tmp_path / "out", calibrate=text)
    assert str(text) in str(caught.value)
    assert not list(tmp_path.glob("out*"))
