"""Law 8: save -> load gives the same logits, weights as safetensors only; also in a new process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from hydrahead.model.fp32 import FP32_MODULES
from hydrahead.model.loading import load_model
from hydrahead.model.modeling import HydraForCausalLM
from tiny_hybrids import MIXED, PLANS, assert_close, hydra_config, tiny_hybrid, tokens

WITH_FP32 = ["full-1-everywhere", "lightning-plain-kv_head", "everything-q_head", "own-window"]
"""Plans with an output gate alone, fusion alone, and everything."""

IN_A_NEW_PROCESS = """
import sys, torch
import hydrahead
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
ids = torch.load(sys.argv[2] + "/ids.pt")
with torch.no_grad():
    torch.save(model(ids).logits, sys.argv[2] + "/logits.pt")
"""


@pytest.mark.matrix
@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_save_and_load(tmp_path: Path, name: str) -> None:
    tied = name in MIXED
    model = tiny_hybrid(PLANS[name], dtype=torch.float32, tie_word_embeddings=tied)
    ids = tokens()
    expected = model(ids).logits
    model.save_pretrained(tmp_path)
    suffixes = {path.suffix for path in tmp_path.iterdir()}
    assert suffixes <= {".json", ".safetensors"}
    for again in (AutoModelForCausalLM.from_pretrained(tmp_path), load_model(tmp_path)):
        assert isinstance(again, HydraForCausalLM)
        # Loaded tensors lie elsewhere in memory, which is enough to change the last bit of a sum.
        assert_close(again.eval()(ids).logits, expected, 1e-6)
        for (key, mine), (other, theirs) in zip(
            model.state_dict().items(), again.state_dict().items(), strict=True
        ):
            assert key == other
            assert torch.equal(mine, theirs), key
        assert again.config.head_plan == PLANS[name]
        assert (again.model.embed_tokens.weight is again.lm_head.weight) == tied


@pytest.mark.matrix
@pytest.mark.parametrize("name", WITH_FP32)
def test_gates_and_fusion_stay_fp32(tmp_path: Path, name: str) -> None:
    """In every way a model comes to bfloat16, bit for bit."""
    model = tiny_hybrid(PLANS[name], dtype=torch.float32)
    model.save_pretrained(tmp_path)
    kept = {
        key: parameter.clone()
        for key, parameter in model.named_parameters()
        if set(FP32_MODULES) & set(key.split("."))
    }
    assert kept
    frequencies = model.model.rotary_emb.inv_freq.clone()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    mine = load_model(tmp_path, dtype="bfloat16")
    for narrow in (model.to(torch.bfloat16), model.bfloat16(), loaded, mine):
        assert torch.equal(narrow.model.rotary_emb.inv_freq, frequencies)
        for key, parameter in narrow.named_parameters():
            assert parameter.dtype == (torch.float32 if key in kept else torch.bfloat16), key
            if key in kept:
                assert torch.equal(parameter, kept[key]), key
        with torch.no_grad():
            assert torch.isfinite(narrow(tokens()).logits).all()
    loaded.save_pretrained(tmp_path / "again")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert again.dtype == torch.bfloat16
    for key, parameter in again.named_parameters():
        assert parameter.dtype == (torch.float32 if key in kept else torch.bfloat16), key


@pytest.mark.matrix
@torch.no_grad()
def test_a_new_process_loads_it(tmp_path: Path) -> None:
    model, ids = tiny_hybrid(PLANS["everything-q_head"], dtype=torch.float32), tokens()
    model.save_pretrained(tmp_path / "model")
    torch.save(ids, tmp_path / "ids.pt")
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path / "model"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    logits = torch.load(tmp_path / "logits.pt")
    torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-5)


def test_a_config_survives_its_file(tmp_path: Path) -> None:
    for name, plan in PLANS.items():
        config = hydra_config(plan)
        config.save_pretrained(tmp_path)
        again = AutoConfig.from_pretrained(tmp_path)
        assert again.head_plan == plan, name
        assert again.rope_parameters == config.rope_parameters
