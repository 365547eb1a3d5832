import pytest
import torch
from distill_cases import make_cases

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_model
from hydrahead.training.batch import Batch
from hydrahead.transfer.align_stage import AlignObjective, AlignStage, head_error, output_error
from hydrahead.transfer.replay import replaced_layers, replay_context, trace_teacher
from hydrahead.transfer.stage_base import DistillConfig


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return make_cases(tmp_path_factory.mktemp("cases"))


def batch(rows=2, length=21, packed=True):
    ids = torch.randint(3, 67, (rows, length))
    positions = torch.arange(length).expand(rows, -1).clone()
    if packed:
        positions[0, 8:] -= 8
    return Batch(input_ids=ids, labels=ids, position_ids=positions)


def prepared(cases, hybrid, target="output", dtype="float64"):
    teacher = load_model(cases / "teacher", dtype=dtype).requires_grad_(False)
    model = load_model(cases / hybrid, dtype=dtype)
    stage = AlignStage().prepare(model, teacher, DistillConfig(align_target=target))
    return teacher, model, stage.objective


@pytest.mark.parametrize("hybrid", ["linear", "half", "mixed"])
@pytest.mark.parametrize("target", ["output", "heads"])
def test_layer_by_layer_gradients_are_those_of_the_whole_loss(cases, hybrid, target):
    _, model, objective = prepared(cases, hybrid, target)
    one = batch()
    whole = objective(one)
    whole.loss.backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    parts = objective.backward(one)
    torch.testing.assert_close(parts.loss, whole.loss.detach())
    assert set(expected) == {n for n, p in model.named_parameters() if p.grad is not None}
    for name, parameter in model.named_parameters():
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_only_replaced_mixers_and_fusion_train(cases):
    _, model, _ = prepared(cases, "mixed")
    training = {n for n, p in model.named_parameters() if p.requires_grad}
    parts = {".".join(name.split(".")[2:6]) for name in training}
    assert parts == {
        "0.self_attn.mixers.1",
        "0.self_attn.fusion.gamma",
        "2.self_attn.mixers.0",
        "2.self_attn.mixers.1",
        "2.self_attn.fusion.gamma",
    }
    plan = model.config.head_plan
    assert plan.layer_mixers(0)[0].spec.name == "full", "the teacher's own mixer stays as it is"


def test_each_layer_is_compared_on_the_teachers_input(cases):
    """Spoiling one layer changes that layer's loss and no other's."""
    _, model, objective = prepared(cases, "half")
    one = batch()
    before = objective(one).sums
    with torch.no_grad():
        model.model.layers[0].self_attn.mixers[1].projections.v.weight.mul_(-3)
        model.model.layers[1].mlp.up_proj.weight.zero_()
    after = objective(one).sums
    changed = [n for n in before if not torch.allclose(before[n], after[n])]
    assert changed == ["layer_0"]


@pytest.mark.parametrize("hybrid", ["half", "mixed"])
def test_output_loss_is_the_relative_error_after_the_output_projection(cases, hybrid):
    teacher, model, objective = prepared(cases, hybrid)
    one = batch(packed=False)
    output = objective(one)
    layers = replaced_layers(model, teacher.config.head_plan)
    trace = trace_teacher(teacher, one, [layer.index for layer in layers], "attention_output")
    errors = []
    for layer in layers:
        hidden, wanted = trace.inputs[layer.index], trace.targets[layer.index]
        context = replay_context(model, hidden, one)
        given, _ = model.model.layers[layer.index].self_attn(hidden, context, None)
        errors.append((given - wanted).square().mean() / wanted.square().mean())
    mean = sum(errors) / len(errors)
    torch.testing.assert_close((output.loss / output.weight).double(), mean, rtol=1e-5, atol=0)
    assert output.weight.item() == one.num_tokens


def test_head_loss_looks_at_replaced_heads_only(cases):
    """The second kv_head of layer 0 is replaced: q_heads 2 and 3."""
    teacher, model, _ = prepared(cases, "mixed", "heads")
    layers = replaced_layers(model, teacher.config.head_plan)
    assert [(layer.index, layer.slots) for layer in layers] == [(0, (2, 3)), (2, (0, 1, 2, 3))]
    objective = AlignObjective(model, teacher, layers[:1], target="heads")
    one = batch()
    before = objective(one).loss
    with torch.no_grad():
        model.model.layers[0].self_attn.mixers[0].projections.v.weight.mul_(-3)
    torch.testing.assert_close(objective(one).loss, before, rtol=0, atol=0)


def test_heads_weigh_alike_whatever_their_size():
    wanted = torch.randn(2, 30, 3, 8) * torch.tensor([1.0, 5.0, 0.5])[:, None]
    given = 1.1 * wanted
    for slot in range(3):
        alone = head_error(given[:, :, slot : slot + 1], wanted[:, :, slot : slot + 1])
        torch.testing.assert_close(alone, head_error(given, wanted))
        torch.testing.assert_close(alone / 60, torch.tensor(0.01))


def test_layers_weigh_alike_whatever_their_size():
    wanted, given = torch.randn(2, 2, 9, 16)
    torch.testing.assert_close(output_error(5 * given, 5 * wanted), output_error(given, wanted))
    torch.testing.assert_close(output_error(0 * given, wanted) / 18, torch.tensor(1.0))


def test_a_silent_head_does_not_rule():
    wanted = torch.randn(1, 20, 4, 8)
    wanted[:, :, 0] *= 1e-6
    given = wanted.clone()
    given[:, :, 0] += 1e-3
    assert head_error(given, wanted) / 20 < 1e-2


def test_the_teacher_itself_has_nothing_to_align(cases):
    teacher = load_model(cases / "teacher")
    with pytest.raises(HydraHeadError, match="every head is the teacher's own"):
        AlignStage().prepare(load_model(cases / "teacher"), teacher, DistillConfig())


def test_a_narrow_teacher_is_compared_in_the_hybrids_dtype(cases):
    teacher = load_model(cases / "teacher", dtype="bfloat16").requires_grad_(False)
    model = load_model(cases / "half")
    objective = AlignStage().prepare(model, teacher, DistillConfig()).objective
    narrow = objective.backward(batch())
    assert narrow.loss.dtype is torch.float32
    assert torch.isfinite(narrow.loss)
