"""convert --twins: the same function in another grouping, and clear words where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_model
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import record
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.transfer.convert import convert
from tiny_teachers import padded_batch, save_teacher

SPECS = {
    "gated_delta": GatedDeltaSpec(),
    "gated_delta with gate": GatedDeltaSpec(output_gate=True, conv_size=3),
    "lightning": LightningSpec(),
}


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    return save_teacher(tmp_path / "teacher", "qwen3")


def _trained(directory: Path, *, calibrated: bool = True) -> HydraForCausalLM:
    """Every mixer and fusion parameter moved, as alignment would; saved over `directory`."""
    model = load_model(directory)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".mixers." in name or ".fusion." in name:
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.config.fusion_calibrated = calibrated
    model.save_pretrained(directory)
    return model


def _make_twins(teacher: Path, out: Path, spec: MixerSpec, unit: str = "kv_head") -> Path:
    return convert(
        teacher, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), spec, unit), out
    )


@torch.no_grad()
def _first_heads(model: HydraForCausalLM) -> torch.Tensor:
    ids, _, _ = padded_batch(67)
    with record(model, ["heads"], layers=[0]) as tape:
        model(ids)
    return tape["heads", 0]


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("unit", ["kv_head", "q_head"])
def test_an_all_linear_plan_computes_what_its_twins_compute(
    teacher: Path, tmp_path: Path, name: str, unit: str
) -> None:
    """Also when each q_head gets its own copy of its kv_head's keys, values and gates."""
    made = unit if name == "lightning" else "kv_head"  # its decays belong to the groups
    held = _make_twins(teacher, tmp_path / "twins", SPECS[name], made)
    twins = _trained(held)
    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), SPECS[name], unit)
    hybrid = load_model(convert(teacher, plan, tmp_path / "out", twins=held))
    ids, _, _ = padded_batch(67)
    with torch.no_grad():
        want = twins(ids).logits
        assert torch.allclose(hybrid(ids).logits, want, atol=1e-4 * want.abs().max().item())
    assert hybrid.config.fusion_calibrated


@pytest.mark.parametrize("unit", ["kv_head", "q_head"])
def test_a_mixed_plan_takes_linear_heads_from_twins_and_full_ones_from_the_teacher(
    teacher: Path, tmp_path: Path, unit: str
) -> None:
    held = _make_twins(teacher, tmp_path / "twins", GatedDeltaSpec())
    twins = _trained(held)
    geometry = ModelGeometry.from_pretrained(teacher)
    full = (0,) if unit == "kv_head" else (1, 2)
    plan = HeadPlan.uniform(geometry, GatedDeltaSpec(), unit)
    plan = plan.replace({(layer, slot): FullSpec() for layer in range(3) for slot in full})
    hybrid = load_model(convert(teacher, plan, tmp_path / "out", twins=held))
    kept = [0, 1] if unit == "kv_head" else [1, 2]
    mine, linear = _first_heads(hybrid), _first_heads(twins)
    softmax = _first_heads(load_model(teacher))
    for slot in range(4):
        want = softmax if slot in kept else linear
        assert torch.allclose(mine[:, :, slot], want[:, :, slot], atol=1e-5), slot


def test_uncalibrated_twins_leave_the_hybrid_uncalibrated(teacher: Path, tmp_path: Path) -> None:
    held = _make_twins(teacher, tmp_path / "twins", GatedDeltaSpec())
    _trained(held, calibrated=False)
    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())
    out = convert(teacher, plan, tmp_path / "out", twins=held)
    assert not load_model(out).config.fusion_calibrated


def _other_settings(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    held = _make_twins(teacher, tmp_path / "twins", GatedDeltaSpec(conv_size=2))
    return held, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())


def _other_mixer(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    held = _make_twins(teacher, tmp_path / "twins", LightningSpec())
    return held, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())


def _split_twins(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    held = _make_twins(teacher, tmp_path / "twins", GatedDeltaSpec(), "q_head")
    return held, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())


def _split_decays(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    held = _make_twins(teacher, tmp_path / "twins", LightningSpec())
    geometry = ModelGeometry.from_pretrained(teacher)
    return held, HeadPlan.uniform(geometry, LightningSpec(), "q_head")


def _missing_slots(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    linear = HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())
    held = convert(teacher, linear.replace({(1, 1): FullSpec()}), tmp_path / "twins")
    return held, linear


def _other_model(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    other = save_teacher(tmp_path / "other", "qwen3", "wide_heads")
    held = _make_twins(other, tmp_path / "twins", GatedDeltaSpec())
    return held, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())


def _no_hybrid(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    return teacher, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())


def _damaged(teacher: Path, tmp_path: Path) -> tuple[Path, HeadPlan]:
    held = _make_twins(teacher, tmp_path / "twins", GatedDeltaSpec())
    file = held / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.2.self_attn.mixers.0.gates.A_log"] = torch.zeros(3)
    save_file(tensors, file, metadata={"format": "pt"})
    return held, HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (_damaged, "A_log' has shape [3], [2] is needed"),
        (_other_settings, "conv_size=2, the plan's conv_size=4"),
        (_other_mixer, "these twins hold lightning and cannot serve a plan of gated_delta"),
        (_split_twins, "the plan runs kv_head 0 as one group"),
        (_split_decays, "lightning is another function when its groups are split"),
        (_missing_slots, "layer 1: there is no twin of q_head 2"),
        (_other_model, "head_dim"),
        (_no_hybrid, "not a hybrid"),
    ],
)
def test_twins_that_cannot_serve_are_refused(
    teacher: Path,
    tmp_path: Path,
    make: Callable[[Path, Path], tuple[Path, HeadPlan]],
    told: str,
) -> None:
    held, plan = make(teacher, tmp_path)
    with pytest.raises(HydraHeadError) as caught:
        convert(teacher, plan, tmp_path / "out", twins=held)
    assert told in str(caught.value)
    assert not list(tmp_path.glob("out*"))
