"""A Falcon-H1 from nothing to a checkpoint that transformers loads."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, FalconH1ForCausalLM

from hydrahead.model.loading import load_model
from hydrahead.recipes.falcon_h1 import FalconShape
from hydrahead.training.config import TrainConfig
from hydrahead.training.pretrain import PretrainRun, pretrain
from hydrahead.training.rows import Phase
from hydrahead.transfer.export import export


def run() -> PretrainRun[FalconShape]:
    shape = FalconShape(
        changes={
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 8,
            "mamba_n_heads": 2,
            "mamba_d_ssm": 16,
            "mamba_d_state": 8,
            "vocab_size": 400,
            "max_position_embeddings": 128,
            "key_multiplier": 0.5,
        },
        base_width=16,
    )
    phases = (Phase(steps=6, length=96, batch_size=4, text_share=1.0, tasks={"niah_single": 1.0}),)
    train = TrainConfig(steps=6, lr=3e-3, warmup_steps=2, checkpoint_every=3, log_every=1)
    return PretrainRun[FalconShape](shape=shape, phases=phases, train=train)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    words = "the quick brown fox jumps over a lazy dog and runs back to its den again "
    path.write_text("\n".join(json.dumps({"text": words * 6}) for _ in range(40)))
    return path


def test_from_scratch_to_transformers(tmp_path: Path, text: Path) -> None:
    directory = pretrain(run(), text=text, out=tmp_path / "model")
    losses = [
        json.loads(line)["loss"] for line in (directory / "metrics.jsonl").read_text().splitlines()
    ]
    assert losses[-1] < losses[0] - 0.3
    model = load_model(directory)
    assert model.config.family == "falcon_h1"
    gates = model.model.layers[0].self_attn.parallel[0].gates  # type: ignore[union-attr]
    assert gates.A_log.dtype == torch.float32
    back = AutoModelForCausalLM.from_pretrained(export(directory, tmp_path / "back")).eval()
    assert isinstance(back, FalconH1ForCausalLM)
    ids = torch.arange(5, 60)[None]
    with torch.no_grad():
        mine, theirs = model(ids).logits, back.float()(ids).logits
    bound = 2e-2 * max(1.0, theirs.abs().max().item())
    assert (mine - theirs).abs().max() < bound  # fp32 gates went back in bf16 where lossless
