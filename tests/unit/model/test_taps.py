"""Taps: what is read is what flows, what is replaced flows on, and no hook stays behind."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.model.taps import SITES, record, replace, tap_point
from tiny_hybrids import GEOMETRY, PLANS, tiny_hybrid, tokens

ROWS, LENGTH = 2, 7
SHAPES = {
    "residual_in": (ROWS, LENGTH, 32),
    "attention_input": (ROWS, LENGTH, 32),
    "query": (ROWS, LENGTH, 6, 8),
    "key": (ROWS, LENGTH, 2, 8),
    "value": (ROWS, LENGTH, 2, 8),
    "heads": (ROWS, LENGTH, 6, 8),
    "attention_output": (ROWS, LENGTH, 32),
    "residual_out": (ROWS, LENGTH, 32),
}


def num_hooks(model: nn.Module) -> int:
    """Hooks of every kind on every module, tap points included."""
    return sum(
        len(hooks)
        for module in model.modules()
        for key, hooks in vars(module).items()
        if key.endswith("_hooks") and isinstance(hooks, dict)
    )


@pytest.fixture
def teacher() -> Iterator[HydraForCausalLM]:
    """Fails the test that leaves a hook behind."""
    model = tiny_hybrid(PLANS["full-0-everywhere"])
    before = num_hooks(model)
    yield model
    assert num_hooks(model) == before


def test_the_counter_sees_a_forgotten_hook(teacher: HydraForCausalLM) -> None:
    before = num_hooks(teacher)
    handle = tap_point(teacher, "heads", 0).register_forward_hook(lambda *_: None)
    assert num_hooks(teacher) == before + 1
    handle.remove()


@torch.no_grad()
def test_every_site_is_what_it_says(teacher: HydraForCausalLM) -> None:
    ids = tokens(ROWS, LENGTH)
    with record(teacher, SITES) as tape:
        hidden = teacher.model(ids, output_hidden_states=True).hidden_states
    assert set(tape) == {(site, layer) for site in SITES for layer in (0, 1)}
    for (site, _), tensor in tape.items():
        assert tensor.shape == SHAPES[site]
    for layer in (0, 1):
        block = teacher.model.layers[layer]
        assert torch.equal(tape["residual_in", layer], hidden[layer])
        normed = block.input_layernorm(tape["residual_in", layer])
        assert torch.equal(tape["attention_input", layer], normed)
        projected = block.self_attn.o_proj(tape["heads", layer].flatten(2))
        assert torch.equal(tape["attention_output", layer], projected)
        middle = tape["residual_in", layer] + tape["attention_output", layer]
        out = middle + block.mlp(block.post_attention_layernorm(middle))
        assert torch.equal(tape["residual_out", layer], out)
        weights = torch.einsum(
            "bthe,bshe->bhts",
            tape["query", layer],
            tape["key", layer].repeat_interleave(GEOMETRY.group_size, dim=2),
        )
        causal = torch.ones(LENGTH, LENGTH).tril().bool()
        weights = (weights / 8**0.5).masked_fill(~causal, float("-inf")).softmax(-1)
        values = tape["value", layer].repeat_interleave(GEOMETRY.group_size, dim=2)
        heads = torch.einsum("bhts,bshe->bthe", weights, values)
        torch.testing.assert_close(tape["heads", layer], heads)


@torch.no_grad()
def test_chosen_layers_and_positions(teacher: HydraForCausalLM) -> None:
    ids = tokens(ROWS, LENGTH)
    with record(teacher, ["heads", "residual_in"], layers=[1]) as whole:
        teacher(ids)
    assert set(whole) == {("heads", 1), ("residual_in", 1)}
    columns = torch.tensor([6, 2])
    with record(teacher, ["heads", "residual_in"], positions=columns) as some:
        teacher(ids)
    rows = torch.tensor([[0], [5]])
    with record(teacher, ["heads", "residual_in"], positions=rows) as single:
        teacher(ids)
    for site in ("heads", "residual_in"):
        assert torch.equal(some[site, 1], whole[site, 1][:, columns])
        for row in range(ROWS):
            assert torch.equal(single[site, 1][row, 0], whole[site, 1][row, rows[row, 0]])


@torch.no_grad()
def test_replacing_flows_on(teacher: HydraForCausalLM) -> None:
    ids, other = tokens(ROWS, LENGTH), tokens(ROWS, LENGTH, seed=9)
    plain = teacher(ids).logits
    sites = [site for site in SITES if site != "key"]
    with record(teacher, SITES) as tape:
        wanted = teacher(other).logits
    # Every block fed the other run's input: what comes out is the other run's output.
    with replace(teacher, {("residual_in", 1): lambda _: tape["residual_in", 1]}):
        assert torch.equal(teacher(ids).logits, wanted)
    for site in sites:
        with replace(teacher, {(site, 1): lambda x, site=site: tape[site, 1]}):
            changed = teacher(ids).logits
        assert not torch.equal(changed, plain), site
    with replace(teacher, {("heads", 0): lambda x: x}):
        assert torch.equal(teacher(ids).logits, plain)
    assert torch.equal(teacher(ids).logits, plain)


@torch.no_grad()
def test_they_nest(teacher: HydraForCausalLM) -> None:
    ids = tokens(ROWS, LENGTH)

    def double(x: Tensor) -> Tensor:
        return 2 * x

    with record(teacher, ["heads"]) as plain:
        teacher(ids)
    with (
        record(teacher, ["heads"]) as outer,
        replace(teacher, {("heads", 0): double}),
        replace(teacher, {("heads", 0): double}),
        record(teacher, ["heads"]) as inner,
    ):
        teacher(ids)
    assert torch.equal(outer["heads", 0], plain["heads", 0])
    assert torch.equal(inner["heads", 0], 4 * plain["heads", 0])


def test_hooks_go_when_something_fails(teacher: HydraForCausalLM) -> None:
    before = num_hooks(teacher)
    with pytest.raises(RuntimeError, match="mine"), record(teacher, SITES):
        raise RuntimeError("mine")

    def fail(_: Tensor) -> Tensor:
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"), replace(teacher, {("heads", 0): fail}):
        teacher(tokens(ROWS, LENGTH))
    # A mistake in the middle of setting up takes back what was set up.
    with pytest.raises(HydraHeadError), record(teacher, ["heads", "haeds"]):
        pass
    assert num_hooks(teacher) == before


def test_mistakes(teacher: HydraForCausalLM) -> None:
    with pytest.raises(HydraHeadError, match="did you mean 'heads'"), record(teacher, ["haeds"]):
        pass
    with pytest.raises(HydraHeadError, match="layers are 0 to 1"), record(teacher, ["heads"], [2]):
        pass
    hybrid = tiny_hybrid(PLANS["everything-q_head"])
    with pytest.raises(HydraHeadError, match="mixers, and 'query'"), record(hybrid, ["query"]):
        pass
    with record(hybrid, ["heads"]) as tape:
        hybrid(tokens(ROWS, LENGTH))
    assert tape["heads", 1].shape == SHAPES["heads"]
    with (
        pytest.raises(AssertionError),
        replace(teacher, {("heads", 0): lambda x: x[:, :1]}),
    ):
        teacher(tokens(ROWS, LENGTH))


def test_gradients_pass_through(teacher: HydraForCausalLM) -> None:
    with record(teacher, ["heads"]) as tape:
        logits = teacher(tokens(ROWS, LENGTH)).logits
    gradient = torch.autograd.grad(logits.sum(), tape["heads", 0])[0]
    assert gradient.abs().sum() > 0
