"""Falcon-H1: folding, sizes, packing, cutting, and plans inside its blocks."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, FalconH1ForCausalLM

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.cache import HydraCache
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.all_full import with_all_full_plan
from hydrahead.model.families.falcon_h1 import FAMILY
from hydrahead.model.families.falcon_h1_fold import NEUTRAL, fold, fold_of, fold_table
from hydrahead.model.families.falcon_h1_sizes import (
    PUBLISHED_PARAMETERS,
    SIZES,
    falcon_h1_config,
)
from hydrahead.model.loading import load_model
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.transfer.convert import convert
from hydrahead.transfer.export import export

from tiny_teachers import FALCON_H1, SIZES as TINY, padded_batch, save_teacher  # isort: skip

FOLDED = ("plain", "tied", "bias", "output_bias", "two_groups_norm", "expanded")


def close(mine: torch.Tensor, theirs: torch.Tensor, tolerance: float = 1e-5) -> None:
    bound = tolerance * max(1.0, theirs.abs().max().item())
    assert (mine - theirs).abs().max().item() <= bound


@pytest.mark.parametrize("option", FOLDED)
@torch.no_grad()
def test_a_folded_checkpoint_needs_no_multipliers(tmp_path: Path, option: str) -> None:
    """The oracle is transformers' own class, which is given neutral multipliers."""
    directory = save_teacher(tmp_path / "teacher", "falcon_h1", option)
    config = json.loads((directory / "config.json").read_text())
    tensors = load_file(directory / "model.safetensors")
    before = {name: tensor.clone() for name, tensor in tensors.items()}
    folded_config, folded = fold(config, tensors)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors.items())
    assert all(folded_config[name] == value for name, value in NEUTRAL.items())
    other = tmp_path / "folded"
    other.mkdir()
    (other / "config.json").write_text(json.dumps(folded_config))
    save_file(folded, other / "model.safetensors", metadata={"format": "pt"})
    ids, _, _ = padded_batch(TINY["vocab_size"])
    theirs = AutoModelForCausalLM.from_pretrained(directory).eval()(ids).logits
    close(AutoModelForCausalLM.from_pretrained(other).eval()(ids).logits, theirs)
    close(load_model(other)(ids).logits, theirs)


def test_the_fold_table_is_that_of_the_forward_pass() -> None:
    """Primes, so that no product can be mistaken for another."""
    config = {
        "model_type": "falcon_h1",
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "mamba_d_ssm": 4,
        "mamba_n_heads": 2,
        "mamba_d_state": 3,
        "embedding_multiplier": 2.0,
        "lm_head_multiplier": 3.0,
        "key_multiplier": 5.0,
        "attention_in_multiplier": 7.0,
        "attention_out_multiplier": 11.0,
        "ssm_in_multiplier": 13.0,
        "ssm_out_multiplier": 17.0,
        "mlp_multipliers": [19.0, 23.0],
        "ssm_multipliers": [29.0, 31.0, 37.0, 41.0, 43.0],
    }
    table = fold_table(config)
    layer = "model.layers.5."
    weights = {
        "model.embed_tokens.weight": 2.0,
        "lm_head.weight": 3.0,
        f"{layer}self_attn.q_proj.weight": 7.0,
        f"{layer}self_attn.k_proj.weight": 35.0,
        f"{layer}self_attn.v_proj.weight": 7.0,
        f"{layer}self_attn.o_proj.weight": 11.0,
        f"{layer}mamba.out_proj.weight": 17.0,
        f"{layer}feed_forward.gate_proj.weight": 19.0,
        f"{layer}feed_forward.up_proj.weight": 1.0,
        f"{layer}feed_forward.down_proj.weight": 23.0,
        f"{layer}mamba.conv1d.weight": 1.0,
        f"{layer}input_layernorm.weight": 1.0,
    }
    for name, factor in weights.items():
        folded = fold_of(table, name).apply(torch.ones(4, 8), is_bias=False)
        assert (folded == factor).all(), name
    key_bias = fold_of(table, f"{layer}self_attn.k_proj.bias").apply(torch.ones(4), is_bias=True)
    assert (key_bias == 5.0).all()
    rows = fold_of(table, f"{layer}mamba.in_proj.weight").apply(torch.ones(16, 8), is_bias=False)
    chunks = [29.0] * 4 + [31.0] * 4 + [37.0] * 3 + [41.0] * 3 + [43.0] * 2
    assert (rows / 13.0)[:, 0].tolist() == chunks
    bias = fold_of(table, f"{layer}mamba.in_proj.bias").apply(torch.ones(16), is_bias=True)
    assert bias.tolist() == chunks


def test_other_families_have_nothing_to_fold() -> None:
    with pytest.raises(HydraHeadError, match="this is 'llama'"):
        fold_table({"model_type": "llama"})


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size: str) -> None:
    """They build in both, and have the published number of parameters."""
    config = falcon_h1_config(size)
    geometry = ModelGeometry.from_config(config)
    hydra = with_all_full_plan(HydraConfig(**FAMILY.to_hydra(config)), geometry)
    with torch.device("meta"):
        mine = HydraForCausalLM(hydra)
        theirs = FalconH1ForCausalLM(FAMILY.normalised(config, where=None))
    counts = []
    for model in (mine, theirs):
        model.tie_weights()
        counts.append(sum(parameter.numel() for parameter in model.parameters()))
    assert counts[0] == counts[1]
    assert abs(counts[0] / PUBLISHED_PARAMETERS[size] - 1) < 0.013


def test_the_cost_of_a_published_size_is_what_users_measured() -> None:
    """llama.cpp holds 768 MiB of keys and values and 73 MiB of states for 1.5B at 32K tokens."""
    cost = HeadPlan.all_full(ModelGeometry.from_config(falcon_h1_config("1.5b"))).cost(32768)
    assert cost.kv_bytes == 768 * 2**20
    assert cost.state_bytes / 2**20 == pytest.approx(72.98, abs=0.6)


def test_an_unknown_size_gets_a_suggestion() -> None:
    with pytest.raises(HydraHeadError, match=r"did you mean '1\.5b-deep'"):
        falcon_h1_config("1.5b-dep")


@torch.no_grad()
def test_a_checkpoint_read_in_pieces_and_packed(tmp_path: Path) -> None:
    """Documents packed in a row are as they are alone; transformers' own class leaks here."""
    directory = save_teacher(tmp_path / "teacher", "falcon_h1", "two_groups_norm")
    mine, theirs = load_model(directory), AutoModelForCausalLM.from_pretrained(directory).eval()
    ids, _, _ = padded_batch(TINY["vocab_size"], rows=2, tokens=24)
    whole = theirs(ids).logits
    for cut in ([1] * 24, [7, 1, 16]):
        cache = HydraCache()
        pieces = [mine(part, past_key_values=cache).logits for part in ids.split(cut, dim=1)]
        close(torch.cat(pieces, dim=1), whole)
    positions = torch.cat((torch.arange(9), torch.arange(15)))[None]
    apart = torch.cat([theirs(part).logits for part in ids.split((9, 15), dim=1)], dim=1)
    close(mine(ids, position_ids=positions).logits, apart)
    leaking = theirs(ids, position_ids=positions.expand(2, -1)).logits
    assert (leaking - apart).abs().max() > 1e-3, "the class at hand keeps packed documents apart"


@torch.no_grad()
def test_generation_equals_transformers(tmp_path: Path) -> None:
    directory = save_teacher(tmp_path / "teacher", "falcon_h1", "norm")
    mine, theirs = load_model(directory), AutoModelForCausalLM.from_pretrained(directory).eval()
    ids, mask, _ = padded_batch(TINY["vocab_size"], tokens=19)
    ids = ids.clamp(min=3)
    settings: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    settings |= {"attention_mask": mask, "eos_token_id": None}
    assert torch.equal(mine.generate(ids, **settings), theirs.generate(ids, **settings))


@torch.no_grad()
def test_a_plan_inside_the_blocks(tmp_path: Path) -> None:
    """Attention heads become windows by score; the Mamba-2 heads stay as they are."""
    directory = save_teacher(tmp_path / "teacher", "falcon_h1", "norm")
    geometry = ModelGeometry.from_pretrained(directory)
    scores = random_scores(geometry, seed=0)
    teacher = load_model(directory)
    ids, _, _ = padded_batch(TINY["vocab_size"], rows=2, tokens=24)
    wide = make_plan(scores, full_fraction=0.5, linear="window:window=64,sinks=0").plan
    hybrid = load_model(convert(directory, wide, tmp_path / "wide"))
    close(hybrid(ids).logits, teacher(ids).logits)
    narrow = make_plan(scores, full_fraction=0.5, linear="window:window=3,sinks=1").plan
    hybrid = load_model(convert(directory, narrow, tmp_path / "narrow"))
    assert not torch.allclose(hybrid(ids).logits, teacher(ids).logits, atol=1e-3)
    for layer, other in zip(hybrid.model.layers, teacher.model.layers, strict=True):
        for one, two in zip(
            layer.self_attn.parallel.parameters(),  # type: ignore[union-attr]
            other.self_attn.parallel.parameters(),  # type: ignore[union-attr]
            strict=True,
        ):
            assert torch.equal(one, two)
    cost, full = narrow.cost(1000), HeadPlan.all_full(geometry).cost(1000)
    assert cost.state_bytes == full.state_bytes > 0
    assert cost.kv_bytes < 0.51 * full.kv_bytes
    with pytest.raises(HydraHeadError, match="runs window"):
        export(tmp_path / "narrow", tmp_path / "back")


def test_mamba_heads_beside_another_familys_attention_start_as_nothing(tmp_path: Path) -> None:
    from hydrahead.plan.specs.mamba2 import Mamba2Spec
    from tiny_hybrids import beside

    directory = save_teacher(tmp_path / "teacher", "qwen3")
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(directory))
    extended = beside(plan, Mamba2Spec(heads=2, head_dim=4, state_size=3, output_bias=True))
    hybrid = load_model(convert(directory, extended, tmp_path / "hybrid"))
    ids, _, _ = padded_batch(TINY["vocab_size"])
    assert torch.equal(hybrid(ids).logits, load_model(directory)(ids).logits)
    hybrid.train()
    hybrid(ids, labels=ids).loss.backward()
    assert hybrid.model.layers[0].self_attn.parallel[0].out_proj.weight.grad.abs().max() > 0
    with pytest.raises(HydraHeadError, match="parallel mixer, mamba2"):
        export(tmp_path / "hybrid", tmp_path / "back")


@torch.no_grad()
def test_a_trained_gate_keeps_its_digits_on_export(tmp_path: Path) -> None:
    """Untouched gates go back in the checkpoint's dtype, changed ones in fp32."""
    directory = save_teacher(tmp_path / "teacher", "falcon_h1")
    narrow = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    narrow.save_pretrained(directory)
    plan = HeadPlan.all_full(ModelGeometry.from_pretrained(directory))
    hybrid = convert(directory, plan, tmp_path / "hybrid")
    file = hybrid / "model.safetensors"
    tensors = load_file(file)
    name = "model.layers.1.self_attn.parallel.0.gates.A_log"
    assert tensors[name].dtype == torch.float32
    tensors[name] = tensors[name] + 1e-4
    save_file(tensors, file, metadata={"format": "pt"})
    back = load_file(export(hybrid, tmp_path / "back") / "model.safetensors")
    assert torch.equal(back["model.layers.1.mamba.A_log"], tensors[name])
    assert back["model.layers.0.mamba.A_log"].dtype == torch.bfloat16
    assert set(back) == set(load_file(directory / "model.safetensors"))


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "activation": ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
    "heads": ({"mamba_n_heads": 5}, "does not divide the Mamba-2 width (24)"),
    "head size": ({"mamba_d_head": 7}, "is not the Mamba-2 width (24)"),
    "groups": ({"mamba_n_groups": 3}, "not a multiple of groups"),
    "multipliers": ({"ssm_multipliers": [1.0, 2.0]}, "five numbers"),
    "limits": ({"time_step_limit": [0.1]}, "time_step_limit"),
    "quantised": ({"quantization_config": {"bits": 4}}, "quantization_config is set"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_contradictory_configuration_is_named(tmp_path: Path, name: str) -> None:
    directory = save_teacher(tmp_path / "teacher", "falcon_h1")
    changes, told = REFUSED[name]
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(HydraHeadError, match=r"config\.json") as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)
    if name != "quantised":
        with pytest.raises(HydraHeadError) as caught:
            ModelGeometry.from_pretrained(directory)
    assert told in str(caught.value)
    assert str(directory) in str(caught.value)


def test_every_option_of_the_cases_changes_the_arithmetic() -> None:
    from tiny_teachers import tiny_config, tiny_model

    ids, _, _ = padded_batch(TINY["vocab_size"])
    with torch.no_grad():
        plain = tiny_model(tiny_config("falcon_h1"))(ids).logits
        for option in FALCON_H1:
            other = tiny_model(tiny_config("falcon_h1", option))(ids).logits
            assert not torch.allclose(plain, other, atol=1e-4), option


def test_a_plan_keeps_the_checkpoints_own_mixer() -> None:
    geometry = ModelGeometry.from_config(falcon_h1_config("0.5b"))
    plan = HeadPlan.all_full(geometry)
    assert HeadPlan.from_json(plan.to_json()) == plan
    assert ModelGeometry.from_dict(json.loads(plan.to_json())["geometry"]) == geometry
    data = plan.to_dict()
    data["parallel"] = [[] for _ in data["parallel"]]
    with pytest.raises(HydraHeadError, match="own parallel mixer is not kept"):
        HeadPlan.from_dict(data)
    changed = plan.replace({(3, 1): WindowSpec(window=8)})
    assert changed.layers[3].parallel == geometry.parallel


def test_a_byte_budget_pays_for_the_states() -> None:
    geometry = ModelGeometry.from_config(falcon_h1_config("tiny-90m"))
    scores = random_scores(geometry, seed=1)
    states = HeadPlan.all_full(geometry).cost(8192).state_bytes
    limit = states + 3 * 2**20
    plan = make_plan(
        scores, kv_bytes=(limit, 8192), linear="window:window=128,sinks=4", min_per_layer=None
    ).plan
    cost = plan.cost(8192)
    assert limit - 2 * 2**20 <= cost.total_bytes <= limit
    with pytest.raises(HydraHeadError, match="too few"):
        make_plan(scores, kv_bytes=(states, 8192), linear="window:window=128,sinks=4")
