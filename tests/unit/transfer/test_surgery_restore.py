"""`restore_qk` on disk: tensor-exact for every kind of checkpoint, streamed, refused, resumed."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from command_process import interrupt
from hydrahead import restore_qk
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.families.teacher import read_config
from hydrahead.model.loading import load_model
from hydrahead.transfer.surgery import qk_changes
from hydrahead.transfer.surgery_units import choose_units, find_units
from surgery_cases import (
    FOREIGN,
    FULL_LAYERS,
    fine_tuned,
    save_foreign,
    save_hybrid,
    tensors_of,
)
from tiny_teachers import save_teacher


def pair(tmp_path: Path, kind: str) -> tuple[Path, Path]:
    """PRE and POST of one kind."""
    before = tmp_path / "pre"
    if kind == "hybrid":
        save_hybrid(before)
    elif kind in FOREIGN:
        save_foreign(before, kind)
    else:
        save_teacher(before, kind)
    return before, fine_tuned(before, tmp_path / "post")


def restored_rows(before: Path, layers: str = "full") -> dict[str, list[int]]:
    """Tensor -> the rows that `qk` takes back."""
    units = find_units(before, read_config(before), SafetensorsReader(before))
    rows: dict[str, list[int]] = {}
    for unit in choose_units(units, layers):
        for role in (unit.q, unit.k):
            for start, stop in role.spans():
                rows.setdefault(f"{role.module}.weight", []).extend(range(start, stop))
    return rows


@pytest.mark.parametrize("kind", ["hybrid", "qwen3", *FOREIGN])
def test_every_value_is_where_it_belongs(tmp_path: Path, kind: str) -> None:
    before, after = pair(tmp_path, kind)
    out = restore_qk(before, after, tmp_path / "out")
    pre, post, made = tensors_of(before), tensors_of(after), tensors_of(out)
    rows = restored_rows(before)
    assert made.keys() == post.keys()
    for name, value in made.items():
        expected = post[name].clone()
        if name in rows:
            expected[rows[name]] = pre[name][rows[name]]
            assert not torch.equal(expected, post[name])
        assert torch.equal(value, expected), name
    if kind in FULL_LAYERS:
        touched = {int(name.split(".layers.")[1].split(".")[0]) for name in rows}
        assert touched == FULL_LAYERS[kind]
    sizes = {path.name: path.stat().st_size for path in after.glob("*.safetensors")}
    assert {path.name: path.stat().st_size for path in out.glob("*.safetensors")} == sizes


@pytest.mark.parametrize("kind", ["qwen3_next", "qwen3_5_text", "falcon_h1"])
@torch.no_grad()
def test_transformers_loads_what_was_made(tmp_path: Path, kind: str) -> None:
    """The restored model is POST with the modules of PRE put in by hand."""
    before, after = pair(tmp_path, kind)
    out = restore_qk(before, after, tmp_path / "out")
    pre, post, made = (AutoModelForCausalLM.from_pretrained(path) for path in (before, after, out))
    width = 8
    for layer in FULL_LAYERS[kind]:
        ours, theirs = (model.model.layers[layer].self_attn for model in (post, pre))
        ours.k_proj.weight.copy_(theirs.k_proj.weight)
        if kind == "falcon_h1":
            ours.q_proj.weight.copy_(theirs.q_proj.weight)
        else:
            per_head = (4, 2, width, -1)  # query, then gate
            ours.q_proj.weight.view(per_head)[:, 0] = theirs.q_proj.weight.view(per_head)[:, 0]
    ids = torch.arange(24)[None] % 60
    assert torch.equal(post(ids).logits, made(ids).logits)


@torch.no_grad()
def test_a_hybrid_loads_and_differs(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "hybrid")
    out = restore_qk(before, after, tmp_path / "out")
    ids = torch.arange(24)[None] % 60
    logits = [load_model(path)(ids).logits for path in (after, out)]
    assert not torch.allclose(*logits)
    assert read_json(out / "artifact.json")["kind"] == "model"


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"variant": "q"}, {"q.weight"}),
        ({"variant": "v"}, {"v.weight"}),
        ({"variant": "pro", "lambda_": 0.1}, {"q.weight", "k.weight"}),
        ({"variant": "qk+norms"}, {"q.weight", "k.weight", "q_norm.weight", "k_norm.weight"}),
        ({"alpha": 0.25}, {"q.weight", "k.weight"}),
        ({"variant": "qk+bias"}, {"q.weight", "k.weight", "q.bias", "k.bias"}),
    ],
)
def test_variants_on_disk(tmp_path: Path, settings: dict[str, Any], names: set[str]) -> None:
    before = save_hybrid(tmp_path / "pre", bias=True)
    after = fine_tuned(before, tmp_path / "post")
    out = restore_qk(before, after, tmp_path / "out", layers="0", **settings)
    pre, post, made = tensors_of(before), tensors_of(after), tensors_of(out)
    changed = {name for name in post if not torch.equal(made[name], post[name])}
    prefix = next(iter(changed)).partition("projections.")[0]
    assert ".layers.0." in prefix
    assert changed == {f"{prefix}projections.{name}" for name in names}
    if "alpha" in settings:
        name = f"{prefix}projections.k.weight"
        expected = post[name].double() + 0.25 * (pre[name].double() - post[name].double())
        assert torch.equal(made[name], expected.to(post[name].dtype))


def test_shards_need_not_be_cut_alike(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "qwen3_next")
    whole = tmp_path / "whole"
    whole.mkdir()
    save_file(tensors_of(before), whole / "model.safetensors", metadata={"format": "pt"})
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (whole / name).write_bytes((before / name).read_bytes())
    assert len(list(after.glob("*.safetensors"))) > 1
    one = restore_qk(whole, after, tmp_path / "one")
    other = restore_qk(before, after, tmp_path / "other")
    for path in other.glob("*.safetensors"):
        assert (one / path.name).read_bytes() == path.read_bytes()


def test_the_record_of_what_was_verified(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "hybrid")
    out = restore_qk(before, after, tmp_path / "out")
    restored = read_json(out / "restored.json")
    assert [unit["layer"] for unit in restored["units"]] == [0, 1]
    [shard] = restored["shards"].values()
    assert shard["changed_bytes"] == sum(
        tensors_of(before)[name].nbytes for name in restored_rows(before)
    )
    assert "QK-Restore" in (out / "README.md").read_text()
    again = restore_qk(before, after, out)
    assert again == out
    with pytest.raises(HydraHeadError, match="exists and is another one"):
        restore_qk(before, after, out, variant="q")
    restore_qk(before, after, out, variant="q", force=True)
    assert read_json(out / "artifact.json")["configuration"]["restore_qk"]["variant"] == "q"


def test_what_is_no_artefact_is_never_replaced(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "hybrid")
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(HydraHeadError, match="not a hydrahead artefact"):
            restore_qk(before, after, out, force=force)


def test_changes_are_relative(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "hybrid")
    pre, post = tensors_of(before), tensors_of(after)
    name = "model.layers.0.self_attn.mixers.0.projections.q.weight"
    [change] = qk_changes(before, after, layers="0")
    assert change.q == pytest.approx(float((post[name] - pre[name]).norm() / pre[name].norm()))
    assert len(qk_changes(before, after, layers="all")) > 3


def rename(directory: Path, change: Any) -> None:
    path = next(iter(sorted(directory.glob("*.safetensors"))))
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def edit_config(directory: Path, **changes: Any) -> None:
    write_json(directory / "config.json", {**read_json(directory / "config.json"), **changes})


def move_token(directory: Path) -> None:
    content = read_json(directory / "tokenizer.json")
    vocabulary = content["model"]["vocab"]
    vocabulary["w5"], vocabulary["w6"] = vocabulary["w6"], vocabulary["w5"]
    write_json(directory / "tokenizer.json", content)


MISTAKES = {
    "shape": (
        lambda d: rename(d, lambda t: {**t, "model.norm.weight": torch.ones(33)}),
        r"'model.norm.weight' has shape \[33\], PRE's has \[32\]",
    ),
    "missing": (
        lambda d: rename(d, lambda t: {n: v for n, v in t.items() if n != "model.norm.weight"}),
        "'model.norm.weight' is only here, POST has no such tensor",
    ),
    "extra": (
        lambda d: rename(d, lambda t: {**t, "a.weight": torch.ones(1)}),
        "'a.weight' is only here, PRE has no such tensor",
    ),
    "dtype": (
        lambda d: rename(d, lambda t: {n: v.bfloat16() for n, v in t.items()}),
        "is stored as BF16, PRE's as F32",
    ),
    "family": (lambda d: edit_config(d, model_type="llama"), "PRE is a 'qwen3' model, POST a 'll"),
    "rope": (
        lambda d: edit_config(d, rope_parameters={"rope_type": "default", "rope_theta": 5.0}),
        "rope_parameters is",
    ),
    "tokenizer": (move_token, "token 'w5' is number 8 in PRE and 9 in POST"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_another_model_is_refused(tmp_path: Path, mistake: str) -> None:
    before, after = pair(tmp_path, "qwen3")
    change, message = MISTAKES[mistake]
    change(after)
    with pytest.raises(HydraHeadError, match=message):
        restore_qk(before, after, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_another_plan_is_refused(tmp_path: Path) -> None:
    before = save_hybrid(tmp_path / "pre")
    after = save_hybrid(tmp_path / "post", unit="q_head")
    with pytest.raises(HydraHeadError, match="PRE's plan is by kv_head, POST's by q_head"):
        restore_qk(before, after, tmp_path / "out")
    other = fine_tuned(before, tmp_path / "other")
    config = read_json(other / "config.json")
    text = json.dumps(config).replace('"window": 5', '"window": 6')
    (other / "config.json").write_text(text)
    with pytest.raises(HydraHeadError, match="the plans differ: kv_head 0 of layer 1"):
        restore_qk(before, other, tmp_path / "out")


def test_more_tokens_in_post_are_fine(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "qwen3")
    content = read_json(after / "tokenizer.json")
    content["model"]["vocab"]["new"] = 67
    write_json(after / "tokenizer.json", content)
    restore_qk(before, after, tmp_path / "out")


def test_diverged_weights_are_named(tmp_path: Path) -> None:
    before, after = pair(tmp_path, "qwen3")
    name = "model.layers.0.self_attn.q_proj.weight"
    rename(before, lambda tensors: {**tensors, name: tensors[name] * torch.inf})
    with pytest.raises(HydraHeadError, match="would hold NaN"):
        restore_qk(before, after, tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_a_disk_that_gives_back_other_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    before, after = pair(tmp_path, "qwen3")
    flush = os.fsync

    def spoiling_flush(descriptor: int) -> None:
        flush(descriptor)
        for part in tmp_path.glob("out.partial/*.part"):
            with part.open("r+b") as file:
                file.seek(-1, 2)
                file.write(b"\x55")

    monkeypatch.setattr(os, "fsync", spoiling_flush)
    with pytest.raises(HydraHeadError, match="read back is not what was written"):
        restore_qk(before, after, tmp_path / "out")


@pytest.mark.parametrize("count", [1, 3])
def test_a_kill_leaves_nothing_that_loads(tmp_path: Path, count: int) -> None:
    before, after = pair(tmp_path, "qwen3_next")
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    ended = interrupt(
        ["restore-qk", str(before), str(after), str(out)],
        number=signal.SIGKILL,
        once=partial / "*.part",
        count=count,
        folder=tmp_path,
    )
    assert ended.code == -signal.SIGKILL
    assert not out.exists()
    assert not (partial / "config.json").exists()
    with pytest.raises(HydraHeadError):
        SafetensorsReader(partial)
    done = {path: path.stat().st_mtime_ns for path in partial.glob("*.part")}
    restore_qk(before, after, out)
    whole = restore_qk(before, after, tmp_path / "whole")
    for path in whole.glob("*.safetensors"):
        assert (out / path.name).read_bytes() == path.read_bytes()
    if count == 3:  # finished shards were not written again
        first = min(done)
        assert (out / first.name.removesuffix(".part")).stat().st_mtime_ns == done[first]
