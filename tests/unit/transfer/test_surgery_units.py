"""Which rows are queries and keys: by the plan, by family and layer types, never by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.model.checkpoint import SafetensorsReader
from hydrahead.model.families.teacher import read_config
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.transfer.surgery_rows import AttentionUnits, HeadRows
from hydrahead.transfer.surgery_units import choose_units, find_units, kind_of
from surgery_cases import FOREIGN, FULL_LAYERS, save_foreign, save_hybrid, tensors_of
from tiny_teachers import save_teacher


def units_of(directory: Path) -> tuple[AttentionUnits, ...]:
    return find_units(directory, read_config(directory), SafetensorsReader(directory))


def test_a_kind_follows_from_what_is_remembered() -> None:
    assert kind_of(FullSpec(rope=False, output_gate=True)) == "full"
    assert kind_of(WindowSpec(window=4096, sinks=0)) == "window"
    assert kind_of(LightningSpec()) == kind_of(GatedDeltaSpec()) == "linear"


@pytest.mark.parametrize("unit", ["kv_head", "q_head"])
def test_a_hybrid_is_read_by_its_plan(tmp_path: Path, unit: str) -> None:
    units = units_of(save_hybrid(tmp_path / "hybrid", unit=unit))
    assert [(u.layer, u.kind) for u in units if u.kind != "linear"] == [
        (0, "full"),
        (1, "window"),
        (1, "full"),
    ]
    assert {u.layer for u in units if u.kind == "linear"} >= {0, 2}
    for found in units:
        assert len(found.q.heads) == len(found.kv_of_q)
        assert max(found.kv_of_q) == len(found.k.heads) - 1
        assert found.q.norm is not None


@pytest.mark.parametrize("family", FOREIGN)
def test_full_layers_of_other_families(tmp_path: Path, family: str) -> None:
    units = units_of(save_foreign(tmp_path / family, family))
    full = [unit for unit in units if unit.kind == "full"]
    assert {unit.layer for unit in full} == FULL_LAYERS[family]
    for unit in full:
        assert [len(rows.heads) for rows in (unit.q, unit.k)] == [4, 2]
        assert unit.kv_of_q == (0, 0, 1, 1)


def test_layers_whose_family_has_windows(tmp_path: Path) -> None:
    units = units_of(save_teacher(tmp_path / "qwen2", "qwen2", "layer_types"))
    assert [unit.kind for unit in units] == ["window", "full", "window"]


@pytest.mark.parametrize("family", ["qwen3_next", "qwen3_5_text"])
@torch.no_grad()
def test_gate_rows_are_no_queries(tmp_path: Path, family: str) -> None:
    """One token attends to itself whatever its query is, so only gate rows change the output."""
    directory = save_foreign(tmp_path / family, family)
    [unit] = [unit for unit in units_of(directory) if unit.kind == "full"]
    assert unit.q.spans() == ((0, 8), (16, 24), (32, 40), (48, 56))
    model = AutoModelForCausalLM.from_pretrained(directory)
    attention: Any = next(m for n, m in model.named_modules() if n.endswith("layers.3.self_attn"))
    outputs: list[torch.Tensor] = []
    attention.o_proj.register_forward_pre_hook(lambda _m, inputs: outputs.append(inputs[0].clone()))
    ids = torch.tensor([[5]])
    model(ids)
    for start, stop in unit.q.spans():
        attention.q_proj.weight[start:stop] += 1.0
    model(ids)
    attention.q_proj.weight[8:16] += 1.0
    model(ids)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[1][..., :8], outputs[2][..., :8])


def test_linear_rows_of_fused_projections(tmp_path: Path) -> None:
    next_units = units_of(save_foreign(tmp_path / "next", "qwen3_next"))
    by_head = next(unit for unit in next_units if unit.kind == "linear")
    # Per key head: query 8, key 8, two value heads 16, z 16.
    assert by_head.q.heads == ((0, 8), (48, 56))
    assert by_head.k.heads == ((8, 16), (56, 64))
    units = units_of(save_foreign(tmp_path / "five", "qwen3_5_text"))
    in_turn = next(unit for unit in units if unit.kind == "linear")
    assert in_turn.q.spans() == ((0, 16),)
    assert in_turn.k.spans() == ((16, 32),)
    assert in_turn.v is not None
    assert in_turn.v.spans() == ((32, 64),)


def test_phi3_rows_cover_the_fused_tensor(tmp_path: Path) -> None:
    directory = save_foreign(tmp_path / "phi3", "phi3")
    unit = units_of(directory)[0]
    assert unit.v is not None
    spans = (*unit.q.spans(), *unit.k.spans(), *unit.v.spans())
    assert spans == ((0, 32), (32, 48), (48, 64))
    assert tensors_of(directory)[f"{unit.q.module}.weight"].shape[0] == 64


def test_layers_are_chosen(tmp_path: Path) -> None:
    units = units_of(save_hybrid(tmp_path / "hybrid"))

    def chosen(text: str) -> list[tuple[int, str]]:
        return [(unit.layer, unit.kind) for unit in choose_units(units, text)]

    assert chosen("full") == [(0, "full"), (1, "full")]
    assert chosen("softmax:1") == [(1, "window"), (1, "full")]
    assert chosen("0-1") == chosen("0, 1") == chosen("full")
    assert chosen("linear:2") == [(2, "linear")]
    assert len(chosen("all")) == len(units)
    for wrong in ("2", "full:", "ful", "1-0", "x:1", "-1", "1,,2", "linear:9"):
        with pytest.raises(HydraHeadError):
            choose_units(units, wrong)


def test_a_list_of_layer_types_is_believed_for_an_unknown_family(tmp_path: Path) -> None:
    directory = save_teacher(tmp_path / "jet", "qwen2")
    config = read_json(directory / "config.json")
    config |= {"model_type": "jet_nemotron", "layer_types": ["jet", "attn", "swa"]}
    write_json(directory / "config.json", config)
    units = units_of(directory)
    assert [unit.kind for unit in units] == ["linear", "full", "window"]
    del config["layer_types"]
    write_json(directory / "config.json", config)
    with pytest.raises(HydraHeadError, match="nothing says which layers"):
        units_of(directory)
    write_json(directory / "config.json", {**config, "layer_types": ["jet", "attn", "warp"]})
    with pytest.raises(HydraHeadError, match="layer type 'warp' is not known"):
        units_of(directory)


def test_touching_rows_are_joined() -> None:
    rows = HeadRows(module="m", heads=((4, 6), (0, 2), (2, 4), (8, 9)), norm=None)
    assert rows.spans() == ((0, 6), (8, 9))
