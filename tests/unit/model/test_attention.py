"""The model around the mixers: parallel mixers, checkpointing, losses, attention by name."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.contract import MixContext, MixerState, ParallelMixer
from hydrahead.model.modeling import HydraForCausalLM
from tiny_hybrids import GEOMETRY, PLANS, assert_close, hydra_config, tiny_hybrid, tokens

PLAN = PLANS["everything-q_head"]


class Constant(ParallelMixer):
    """A parallel mixer: adds the same vector everywhere, remembers nothing of interest."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(GEOMETRY.hidden_size, dtype=torch.float64))

    def init_state(
        self, batch: int, *, capacity: int | None, device: torch.device, dtype: torch.dtype
    ) -> MixerState:
        return MixerState()

    def forward(
        self, hidden: Tensor, context: MixContext, state: MixerState | None
    ) -> tuple[Tensor, MixerState | None]:
        return self.vector.expand_as(hidden), state


@torch.no_grad()
def test_parallel_mixers_are_added_after_the_output_projection() -> None:
    from hydrahead.model.taps import record

    model, ids = tiny_hybrid(PLAN), tokens()
    with record(model, ["heads", "attention_output"]) as before:
        model(ids, use_cache=False)
    extra = Constant()
    model.model.layers[0].self_attn.parallel.append(extra)
    with record(model, ["heads", "attention_output"]) as after:
        model(ids, use_cache=False)
    assert torch.equal(after["heads", 0], before["heads", 0])
    expected = before["attention_output", 0] + extra.vector
    assert_close(after["attention_output", 0], expected, 1e-12)


def enable_checkpointing(model: HydraForCausalLM) -> None:
    """By the name that the transformers at hand wants."""
    new = getattr(model, "activation_checkpointing_enable", None)
    (new or model.gradient_checkpointing_enable)()


def test_activation_checkpointing_changes_nothing() -> None:
    model, ids = tiny_hybrid(PLAN), tokens(2, 20)
    positions = torch.cat((torch.arange(12), torch.arange(8)))[None]
    model.train()
    results = []
    for checkpointing in (False, True):
        if checkpointing:
            enable_checkpointing(model)
        model.zero_grad()
        logits = model(ids, position_ids=positions).logits
        logits.sin().sum().backward()
        results.append((logits, {n: p.grad for n, p in model.named_parameters()}))
    assert_close(results[1][0], results[0][0])
    for name, gradient in results[0][1].items():
        assert_close(results[1][1][name], gradient)


def test_checkpointing_runs_every_layer_twice() -> None:
    model = tiny_hybrid(PLAN).train()
    enable_checkpointing(model)
    runs = []
    model.model.layers[1].input_layernorm.register_forward_hook(lambda *_: runs.append(1))
    model(tokens(2, 8)).logits.sum().backward()
    assert len(runs) == 2


def test_loss_is_transformers_loss() -> None:
    model, ids = tiny_hybrid(PLAN), tokens()
    labels = ids.clone()
    labels[0, :9] = -100
    out = model(ids, labels=labels)
    expected = functional.cross_entropy(
        out.logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten()
    )
    torch.testing.assert_close(out.loss, expected, check_dtype=False)
    assert isinstance(model(ids, labels=labels, return_dict=False), tuple)


@torch.no_grad()
def test_sdpa_and_eager_agree_and_others_are_refused() -> None:
    ids = tokens()
    sdpa, eager = (tiny_hybrid(PLAN, attn_implementation=name) for name in ("sdpa", "eager"))
    assert (sdpa.config._attn_implementation, eager.config._attn_implementation) == (
        "sdpa",
        "eager",
    )
    assert_close(sdpa(ids).logits, eager(ids).logits)
    for name in ("flash_attention_2", "flex_attention", "sdap"):
        with pytest.raises(HydraHeadError, match="sdpa"):
            HydraForCausalLM._from_config(hydra_config(PLAN), attn_implementation=name)
    with pytest.raises(HydraHeadError, match="sdpa"):
        sdpa.set_attn_implementation("flash_attention_2")
    assert HydraForCausalLM(hydra_config(PLAN)).config._attn_implementation == "sdpa"


def test_a_plan_for_another_model_is_refused() -> None:
    without = hydra_config(PLAN)
    without.plan = None
    config = hydra_config(PLAN, num_hidden_layers=3)
    with pytest.raises(HydraHeadError, match="num_hidden_layers=2, the model has 3"):
        HydraForCausalLM(config)
    with pytest.raises(HydraHeadError, match="no head plan"):
        HydraForCausalLM(without)


@torch.no_grad()
def test_a_fresh_model_starts_where_it_should() -> None:
    """Gates at exactly one, fusion scalars at one, identity convolutions, also on a meta device."""
    model = HydraForCausalLM(hydra_config(PLAN))
    found = set()
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 2)[-2:]
        found.add(".".join(leaf))
        if leaf == ["fusion", "gamma"] or leaf == ["output_gate", "bias"]:
            assert (parameter == 1).all(), name
        elif leaf == ["output_gate", "weight"]:
            assert (parameter == 0).all(), name
    assert {"fusion.gamma", "output_gate.weight"} <= found


@torch.no_grad()
def test_new_parameters_that_a_checkpoint_lacks_get_their_start(tmp_path) -> None:
    """`from_pretrained` builds on the meta device: what it does not find must still be defined."""
    from safetensors.torch import load_file, save_file

    model = tiny_hybrid(PLAN, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = [key for key in tensors if key.endswith("fusion.gamma")]
    half = [key for key in tensors if key.endswith("output_gate.weight")]
    assert gone
    assert half
    for key in (*gone, *half):
        del tensors[key]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = HydraForCausalLM.from_pretrained(tmp_path)
    for key in gone:
        assert (again.get_parameter(key) == 1).all()
    for key in half:
        assert (again.get_parameter(key) == 0).all()
        bias = key.replace("weight", "bias")
        assert torch.equal(again.get_parameter(bias), tensors[bias])


def test_a_training_step_under_autocast_is_near_the_one_without() -> None:
    """Norm weights are then wider than what they scale; that is neither an error nor a warning."""
    model = tiny_hybrid(PLANS["everything-q_head"], dtype=torch.float32)
    exact = model(tokens(), labels=tokens()).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(tokens(), labels=tokens()).loss
    loss.backward()
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
