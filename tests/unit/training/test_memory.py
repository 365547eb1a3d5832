from types import SimpleNamespace

import pytest
import torch
from training_fakes import TinyLM

from hydrahead.core.errors import HydraHeadError
from hydrahead.training.config import TrainConfig
from hydrahead.training.memory import (
    _cgroup_available,
    available_bytes,
    estimate_memory,
    require_memory,
)

CONFIG = TrainConfig(steps=1, batch_size=4, length=128)


def model(dtype=torch.float32):
    made = TinyLM(dtype)
    made.config = SimpleNamespace(hidden_size=8, intermediate_size=32, vocab_size=17)
    return made


def test_optimiser_memory_is_counted_exactly():
    wide, narrow = model(), model(torch.bfloat16)
    count = sum(p.numel() for p in wide.parameters())
    gates = sum(p.numel() for layer in narrow.layers for p in layer.gates.parameters())
    estimate = estimate_memory(wide, CONFIG)
    assert (estimate.masters, estimate.gradients, estimate.optimiser) == (0, 4 * count, 8 * count)
    estimate = estimate_memory(narrow, CONFIG)
    assert estimate.masters == 4 * (count - gates)
    for parameter in wide.parameters():
        parameter.requires_grad_(False)
    wide.head.weight.requires_grad_(True)
    assert estimate_memory(wide, CONFIG).optimiser == 8 * wide.head.weight.numel()


def test_what_cannot_fit_is_refused_with_numbers_and_a_mend():
    needed = estimate_memory(model(), CONFIG).total
    require_memory(model(), CONFIG, available=needed)
    with pytest.raises(HydraHeadError) as error:
        require_memory(model(), CONFIG, available=needed - 1)
    message = str(error.value)
    assert "GiB are free on cpu" in message
    assert "activation_checkpointing" in message
    assert "batch_size" in message


def test_no_batch_size_helps_when_the_optimiser_alone_is_too_large():
    with pytest.raises(HydraHeadError, match="a device with more memory"):
        require_memory(model(), CONFIG, available=100)


def test_recomputation_and_layer_by_layer_need_less():
    plain = estimate_memory(model(), CONFIG).activations
    recomputed = CONFIG.model_copy(update={"activation_checkpointing": True})
    assert estimate_memory(model(), recomputed).activations < plain
    assert estimate_memory(model(), CONFIG, layer_by_layer=True).activations < plain


def test_a_containers_limit_counts(tmp_path):
    assert _cgroup_available(tmp_path) is None
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\n")
    assert _cgroup_available(tmp_path) == 450
    (tmp_path / "memory.max").write_text("max\n")
    assert _cgroup_available(tmp_path) is None


def test_this_machine_says_what_is_free():
    free = available_bytes(torch.device("cpu"))
    assert free is None or free > 0
