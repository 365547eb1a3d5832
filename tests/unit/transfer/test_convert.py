"""convert: kept heads byte for byte, the same command the same bytes, nothing left behind on
failure.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hydrahead.core.artefacts import read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.model.checkpoint import SafetensorsReader, ShardWriter
from hydrahead.model.loading import load_model
from hydrahead.plan.files import write_plan
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.transfer.convert import _Conversion, convert
from tiny_teachers import padded_batch, save_teacher, tiny_config, tiny_model

DELTA, LIGHTNING = GatedDeltaSpec(), LightningSpec()


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    directory = save_teacher(tmp_path / "teacher", "qwen3")
    (directory / "LICENSE").write_text("do as you please")
    (directory / "README.md").write_text("---\nlicense: mit\ntags: [x]\n---\n# A model\n")
    return directory


def _mixed(teacher: Path, unit: str = "kv_head") -> HeadPlan:
    geometry = ModelGeometry.from_pretrained(teacher)
    plan = HeadPlan.all_full(geometry, unit)
    return plan.replace({(0, 0): DELTA, (1, 0): WindowSpec(window=8), (1, 1): LIGHTNING})


def _bytes(directory: Path) -> dict[str, bytes]:
    return {
        path.name: path.read_bytes()
        for path in sorted(directory.iterdir())
        if path.is_file() and path.name != "artifact.json"
    }


def _nothing_left(out: Path) -> bool:
    return not list(out.parent.glob(f"{out.name}*"))


@pytest.mark.parametrize("unit", ["kv_head", "q_head"])
def test_every_mixer_starts_from_its_own_heads(teacher: Path, tmp_path: Path, unit: str) -> None:
    plan = _mixed(teacher, unit)
    out = convert(teacher, plan, tmp_path / "out")
    stored = load_file(out / "model.safetensors")
    theirs = load_file(teacher / "model.safetensors")
    for layer in range(3):
        for i, mixer in enumerate(plan.layer_mixers(layer)):
            for role, slots in (("q", mixer.q_slots), ("k", mixer.kv_slots), ("v", mixer.kv_slots)):
                mine = stored[
                    f"model.layers.{layer}.self_attn.mixers.{i}.projections.{role}.weight"
                ]
                rows = theirs[f"model.layers.{layer}.self_attn.{role}_proj.weight"]
                assert torch.equal(mine, rows.unflatten(0, (-1, 8))[list(slots)].flatten(0, 1))
    for name in ("model.norm.weight", "lm_head.weight", "model.layers.2.self_attn.o_proj.weight"):
        assert torch.equal(stored[name], theirs[name])
    assert torch.equal(stored["model.layers.0.self_attn.fusion.gamma"], torch.ones(4))
    assert "model.layers.2.self_attn.fusion.gamma" not in stored
    assert not load_model(out).config.fusion_calibrated


def test_a_hybrid_runs_in_a_fresh_model_class(teacher: Path, tmp_path: Path) -> None:
    out = convert(teacher, _mixed(teacher), tmp_path / "out")
    ids, _, _ = padded_batch(67)
    with torch.no_grad():
        mine = load_model(out)(ids).logits
        assert torch.isfinite(mine).all()
        assert torch.equal(mine, AutoModelForCausalLM.from_pretrained(out).eval()(ids).logits)


def test_what_stands_beside_the_weights_comes_along(teacher: Path, tmp_path: Path) -> None:
    plan = _mixed(teacher)
    out = convert(teacher, plan, tmp_path / "out")
    for name in ("tokenizer.json", "chat_template.jinja", "LICENSE", "generation_config.json"):
        assert (out / name).read_bytes() == (teacher / name).read_bytes()
    card = (out / "README.md").read_text()
    assert card.startswith(
        "---\nlibrary_name: hydrahead\npipeline_tag: text-generation\nlicense: mit\n"
    )
    assert "gated_delta" in card
    assert "hybrid of teacher" in card
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["HydraForCausalLM"]
    assert HeadPlan.from_dict(config["plan"]) == plan
    assert str(tmp_path) not in (out / "config.json").read_text() + card
    record = read_record(out)
    assert record.kind == "model"
    assert set(record.parents) == {"model"}


def test_the_same_command_gives_the_same_bytes(teacher: Path, tmp_path: Path) -> None:
    plan = _mixed(teacher)
    torch.manual_seed(1)
    one = convert(teacher, plan, tmp_path / "one")
    torch.manual_seed(2)
    other = convert(teacher, plan, tmp_path / "other")
    assert _bytes(one) == _bytes(other)


def test_a_finished_hybrid_is_reused_and_another_one_is_not_overwritten(
    teacher: Path, tmp_path: Path
) -> None:
    out = convert(teacher, _mixed(teacher), tmp_path / "out")
    before = (out / "model.safetensors").stat().st_mtime_ns
    convert(teacher, _mixed(teacher), out)
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    other = HeadPlan.all_full(ModelGeometry.from_pretrained(teacher))
    with pytest.raises(HydraHeadError, match="force"):
        convert(teacher, other, out)
    convert(teacher, other, out, force=True)
    assert load_model(out).config.head_plan == other


def test_dtypes_of_a_bf16_teacher(tmp_path: Path) -> None:
    directory = tmp_path / "teacher"
    tiny_model(tiny_config("llama", "bias")).to(torch.bfloat16).save_pretrained(directory)
    geometry = ModelGeometry.from_pretrained(directory)
    gated = FullSpec(output_gate=True)
    plan = HeadPlan.uniform(geometry, DELTA).replace({(1, 1): gated})
    out = convert(directory, plan, tmp_path / "out")
    for name, tensor in load_file(out / "model.safetensors").items():
        wide = {"gates", "output_gate", "fusion"} & set(name.split("."))
        assert tensor.dtype == (torch.float32 if wide else torch.bfloat16), name
    assert json.loads((out / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_model(out, dtype="auto").dtype == torch.bfloat16


def test_a_plan_may_be_a_file_and_the_teacher_a_hybrid(teacher: Path, tmp_path: Path) -> None:
    plan = _mixed(teacher)
    write_plan(tmp_path / "plan.json", plan, configuration={})
    direct = convert(teacher, plan, tmp_path / "direct")
    full = HeadPlan.all_full(plan.geometry)
    ours = convert(teacher, full, tmp_path / "ours")
    again = convert(ours, tmp_path / "plan.json", tmp_path / "again")
    assert _bytes(direct)["model.safetensors"] == _bytes(again)["model.safetensors"]
    assert _bytes(direct)["config.json"] == _bytes(again)["config.json"]
    assert set(read_record(again).parents) == {"model", "plan"}


def test_many_shards_in_and_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = save_teacher(tmp_path / "one", "qwen2")
    sharded = tmp_path / "many"
    tiny_model(tiny_config("qwen2")).save_pretrained(sharded, max_shard_size="20KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(directory), DELTA)
    whole = convert(directory, plan, tmp_path / "whole")
    monkeypatch.setattr("hydrahead.model.shard_writer.MAX_SHARD_BYTES", 20_000)
    pieces = convert(sharded, plan, tmp_path / "pieces")
    one, many = SafetensorsReader(whole), SafetensorsReader(pieces)
    assert one.names() == many.names()
    assert all(torch.equal(one.read(name), many.read(name)) for name in one.names())
    ids, _, _ = padded_batch(67)
    with torch.no_grad():
        assert torch.equal(load_model(whole)(ids).logits, load_model(pieces)(ids).logits)


def test_a_killed_conversion_goes_on(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = _mixed(teacher), tmp_path / "out"
    monkeypatch.setattr("hydrahead.model.shard_writer.MAX_SHARD_BYTES", 9_000)
    whole = convert(teacher, plan, tmp_path / "whole")
    original = _Conversion._write_layer
    seen: list[int] = []
    stop = True

    def watched(self: _Conversion, layer: int, writer: ShardWriter) -> None:
        if stop and layer == 2:
            raise KeyboardInterrupt
        seen.append(layer)
        original(self, layer, writer)

    monkeypatch.setattr(_Conversion, "_write_layer", watched)
    with pytest.raises(KeyboardInterrupt):
        convert(teacher, plan, out)
    assert not out.exists()
    assert seen == [0, 1]
    seen.clear()
    stop = False
    convert(teacher, plan, out)
    assert 0 not in seen, "a finished layer was converted again"
    assert _bytes(out) == _bytes(whole)


def test_a_conversion_killed_at_its_very_end_goes_on(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, out = _mixed(teacher), tmp_path / "out"
    monkeypatch.setattr("hydrahead.model.shard_writer.MAX_SHARD_BYTES", 9_000)
    whole = convert(teacher, plan, tmp_path / "whole")
    with monkeypatch.context() as patch:

        def stop(*arguments: object) -> None:
            raise KeyboardInterrupt

        patch.setattr("hydrahead.transfer.convert.copy_companions", stop)
        with pytest.raises(KeyboardInterrupt):
            convert(teacher, plan, out)
    convert(teacher, plan, out)
    assert _bytes(out) == _bytes(whole)


def test_a_plan_for_another_model_is_refused(teacher: Path, tmp_path: Path) -> None:
    other = save_teacher(tmp_path / "other", "qwen3", "wide_heads")
    out = tmp_path / "out"
    with pytest.raises(HydraHeadError, match="head_dim"):
        convert(other, _mixed(teacher), out)
    assert _nothing_left(out)


def test_a_hybrid_is_no_teacher(teacher: Path, tmp_path: Path) -> None:
    hybrid = convert(teacher, _mixed(teacher), tmp_path / "hybrid")
    with pytest.raises(HydraHeadError, match="layer 0, kv_head 0 runs gated_delta"):
        convert(hybrid, _mixed(teacher), tmp_path / "out")
    assert _nothing_left(tmp_path / "out")


def _no_write(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hydrahead.model.shard_writer.os.write", full)


def _no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    from shutil import disk_usage

    def little(path: Path) -> object:
        return disk_usage(path)._replace(free=1000)

    monkeypatch.setattr("hydrahead.transfer.convert.shutil.disk_usage", little)


@pytest.mark.parametrize("simulate", [_no_write, _no_room])
def test_a_full_disk_is_one_line_and_leaves_nothing(
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    simulate: Callable[[pytest.MonkeyPatch], None],
) -> None:
    simulate(monkeypatch)
    with pytest.raises(HydraHeadError, match="no space left") as caught:
        convert(teacher, _mixed(teacher), tmp_path / "out")
    assert caught.value.mend
    assert _nothing_left(tmp_path / "out")
