import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from training_fakes import TinyLM

from hydrahead.training.config import TrainConfig
from hydrahead.training.optimiser import MasterAdamW, is_decayed, named_trainable

CONSTANT = {"schedule": "constant", "warmup_steps": 0, "clip": None}


def step(optimiser, lr):
    optimiser.gather()
    optimiser.step(lr)


def test_updates_below_half_a_bf16_step_are_not_lost():
    """Adam's step is about lr; at 2.0 a bf16 value moves by 1/64 at least, a thousand times lr."""
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    bare = nn.Parameter(torch.full((1, 1), 2.0, dtype=torch.bfloat16))
    with torch.no_grad():
        model.weight.fill_(2.0)
    lr = 2.0**-6 / 1000
    ours = MasterAdamW(model, TrainConfig(steps=1, lr=lr, min_lr=0, **CONSTANT))
    theirs = torch.optim.AdamW([bare], lr=lr, weight_decay=0.0)
    for _ in range(2000):
        model.weight.grad = torch.ones_like(model.weight)
        bare.grad = torch.ones_like(bare)
        step(ours, lr)
        theirs.step()
    assert bare.item() == 2.0, "the point of the test: bf16 alone stands still"
    assert model.weight.item() == pytest.approx(2.0 - 2 * 2.0**-6, abs=2.0**-7)


def test_narrow_gradients_add_up_in_float32():
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    optimiser = MasterAdamW(model, TrainConfig(steps=1))
    for value in (256.0, 1.0, 1.0):  # 256 + 1 is 256 in bf16
        model.weight.grad = torch.full_like(model.weight, value)
        optimiser.gather()
    assert optimiser.gradient_norm().item() == 258.0


def test_float32_parameters_are_their_own_masters():
    model = TinyLM(torch.bfloat16)
    optimiser = MasterAdamW(model, TrainConfig(steps=1))
    masters, _ = optimiser.tensors()
    assert all(m.dtype is torch.float32 for m in masters.values())
    gate = model.layers[0].gates.weight
    assert masters["layers.0.gates.weight"].data_ptr() == gate.data_ptr()


def test_without_narrow_parameters_it_is_adamw():
    ours, theirs = TinyLM(), TinyLM()
    config = TrainConfig(steps=1, weight_decay=0.1, clip=None)
    optimiser = MasterAdamW(ours, config)
    decayed = ("mix.weight", "head.weight")
    named = list(theirs.named_parameters())
    groups = [
        {"params": [p for n, p in named if n.endswith(decayed)], "weight_decay": 0.1},
        {"params": [p for n, p in named if not n.endswith(decayed)], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2, betas=config.betas, eps=config.eps)
    for number in range(5):
        torch.manual_seed(number)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        step(optimiser, 1e-2)
        reference.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("name", "shape", "decays"),
    [
        ("model.layers.0.self_attn.mixers.0.projections.q.weight", (4, 4), True),
        ("model.layers.0.mlp.gate_proj.weight", (4, 4), True),
        ("model.layers.0.self_attn.mixers.1.gates.decay_weight", (4, 4), False),
        ("model.layers.0.self_attn.mixers.1.output_gate.weight", (4, 4), False),
        ("model.layers.0.self_attn.mixers.1.conv.q.weight", (4, 4), False),
        ("model.layers.0.self_attn.fusion.gamma", (4,), False),
        ("model.layers.0.input_layernorm.weight", (4,), False),
        ("model.layers.0.self_attn.mixers.0.projections.q_norm.weight", (4, 4), False),
        ("model.layers.0.self_attn.mixers.0.projections.q.bias", (4,), False),
    ],
)
def test_weight_decay_reaches_matrices_only(name, shape, decays):
    assert is_decayed(name, torch.zeros(shape), nn.Linear(1, 1), decay_embeddings=False) is decays


def test_weight_decay_reaches_embeddings_only_when_asked():
    table = nn.Embedding(4, 4)
    assert not is_decayed("embed.weight", table.weight, table, decay_embeddings=False)
    assert is_decayed("embed.weight", table.weight, table, decay_embeddings=True)


def test_tied_parameters_train_once():
    model = TinyLM()
    model.head.weight = model.embed.weight
    assert [name for name, _ in named_trainable(model)].count("head.weight") == 0


def test_learning_rate_warms_up_and_falls_to_its_floor():
    config = TrainConfig(steps=101, lr=1.0, min_lr=0.1, warmup_steps=10)
    assert config.lr_at(0) == pytest.approx(0.1)
    assert config.lr_at(9) == config.lr_at(10) == 1.0
    assert config.lr_at(55) == pytest.approx(0.55)
    assert config.lr_at(100) == pytest.approx(0.1)
    flat = config.model_copy(update={"schedule": "constant"})
    assert {flat.lr_at(step) for step in (9, 50, 100)} == {1.0}


def test_tokens_become_whole_steps():
    config = TrainConfig(tokens=1000, batch_size=2, length=64, accumulation=2)
    assert config.num_steps == math.ceil(1000 / 256)


@pytest.mark.parametrize(
    "fields", [{}, {"steps": 1, "tokens": 1}, {"steps": 1, "lr": 1e-5, "min_lr": 1e-4}]
)
def test_settings_that_contradict_each_other_are_refused(fields):
    with pytest.raises(ValidationError):
        TrainConfig(**fields)
