"""Law 5 on the CPU: every way to run a mixer gives the same outputs, states and gradients.

Linear mixers: the chunked form against the token-by-token one. Softmax mixers: sdpa against eager.
Fresh memory is filled with NaN, so that nothing can depend on what an allocation happens to hold.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hydrahead.kernels.backend import resolve
from hydrahead.model.cache import HydraCache
from tiny_hybrids import PLANS, SPECS, assert_close, left_padded, tiny_hybrid


@pytest.fixture
def nan_filled_memory() -> Iterator[None]:
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = filled


def recurrent_only(op: str, *args: Any, **kwargs: Any) -> Any:
    kernel = resolve(op, *args, **kwargs)
    return replace(kernel, chunked=kernel.recurrent)


def everything(
    spec: str, length: int, attention: str
) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Outputs, final states and all gradients (also of the input) of one run."""
    model = tiny_hybrid(PLANS[f"{spec}-everywhere"], attn_implementation=attention)
    ids, mask = left_padded((length, max(1, length - 4)))
    embeddings = model.model.embed_tokens(ids).detach().requires_grad_()
    cache = HydraCache()
    hidden = model.model(
        inputs_embeds=embeddings, attention_mask=mask, past_key_values=cache
    ).last_hidden_state
    outputs = hidden[mask.bool()]
    (outputs * torch.linspace(-1, 1, outputs.shape[-1], dtype=outputs.dtype)).sin().sum().backward()
    states = {
        f"{layer}.{index}.{key}": tensor.detach()
        for layer, row in enumerate(cache.states)
        for index, state in enumerate(row)
        for key, tensor in state.tensors().items()
        if tensor.is_floating_point()
    }
    assert states
    assert embeddings.grad is not None
    named = model.model.named_parameters()
    found = {name: p.grad for name, p in named if p.grad is not None}
    return outputs, states, found | {"input": embeddings.grad}


@pytest.mark.usefixtures("nan_filled_memory")
@pytest.mark.parametrize("length", [1, 5, 67])
@pytest.mark.parametrize("spec", SPECS)
def test_every_form_gives_the_same(spec: str, length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs, states, gradients = everything(spec, length, "sdpa")
    monkeypatch.setattr("hydrahead.mixers.linear_base.resolve", recurrent_only)
    other_outputs, other_states, other_gradients = everything(spec, length, "eager")
    assert_close(outputs, other_outputs)
    assert states.keys() == other_states.keys()
    for key, state in states.items():
        assert_close(state, other_states[key])
    assert gradients.keys() == other_gradients.keys()
    for key, gradient in gradients.items():
        assert_close(gradient, other_gradients[key], 1e-8)
