import pytest
import torch
import torch.nn.functional as F

from hydrahead.training.batch import IGNORE, Batch
from hydrahead.training.head_loss import Targets
from hydrahead.transfer.losses import DistillWeights, Head, chunked_distillation

VOCAB, WIDTH, TEACHER_WIDTH = 13, 5, 7


def targets_of(labels, weights=None):
    return Targets.of(
        Batch(
            input_ids=torch.zeros_like(labels),
            labels=labels,
            position_ids=torch.zeros_like(labels),
            target_weights=weights,
        )
    )


def parts(dtype=torch.float64, *, ignored=True, weighted=False):
    labels = torch.randint(0, VOCAB, (2, 10))
    if ignored:
        labels[:, 3:5] = IGNORE
    targets = targets_of(labels, torch.rand(2, 10) if weighted else None)
    hidden = torch.randn(2, 10, WIDTH, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCAB, WIDTH, dtype=dtype, requires_grad=True)
    bias = torch.randn(VOCAB, dtype=dtype, requires_grad=True)
    taught = torch.randn(2, 10, TEACHER_WIDTH, dtype=dtype)
    teacher = Head(weight=torch.randn(VOCAB, TEACHER_WIDTH, dtype=dtype))
    return hidden, weight, bias, taught, teacher, targets


def naive(hidden, weight, bias, taught, teacher, targets, weights):
    """Both terms as the papers write them, on whole logits."""
    logits = F.linear(targets.rows(hidden), weight, bias)
    teacher_logits = teacher.logits(targets.rows(taught))
    t = weights.temperature
    kl = F.kl_div(
        (logits / t).log_softmax(-1),
        (teacher_logits / t).log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1) * (t * t)
    ce = F.cross_entropy(logits, targets.labels, reduction="none")
    scale = 1.0 if targets.weights is None else targets.weights
    return (
        (scale * (weights.kl * kl + weights.ce * ce)).sum(),
        (scale * kl).sum(),
        (scale * ce).sum(),
    )


def chunked(hidden, weight, bias, taught, teacher, targets, weights, chunk=None):
    return chunked_distillation(
        targets.rows(hidden),
        Head(weight=weight, bias=bias),
        targets.rows(taught),
        teacher,
        targets,
        weights,
        chunk_tokens=chunk,
    )


@pytest.mark.parametrize("chunk", [1, 5, 16, None])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "weights",
    [
        DistillWeights(),
        DistillWeights(kl=0.7, ce=0.0, temperature=3.0),
        DistillWeights(kl=0.0, ce=1.3),
        DistillWeights(kl=2.0, ce=0.5, temperature=0.5),
    ],
)
def test_equals_the_naive_loss_and_its_gradients(chunk, weighted, weights):
    given = parts(weighted=weighted)
    sums = chunked(*given, weights, chunk)
    loss, kl, ce = naive(*given, weights)
    torch.testing.assert_close(sums.loss, loss)
    torch.testing.assert_close(sums.kl, kl)
    torch.testing.assert_close(sums.ce, ce)
    trained = given[:3]
    ours = torch.autograd.grad(0.3 * sums.loss, trained)
    theirs = torch.autograd.grad(0.3 * loss, trained)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_the_teachers_own_logits_cost_nothing():
    hidden, weight, *_, targets = parts()
    head = Head(weight=weight)
    sums = chunked_distillation(
        targets.rows(hidden),
        head,
        targets.rows(hidden).detach(),
        Head(weight=weight.detach()),
        targets,
        DistillWeights(ce=0.0),
    )
    sums.loss.backward()
    assert sums.kl.item() == pytest.approx(0, abs=1e-12)
    assert hidden.grad.abs().max() < 1e-12


def test_teacher_and_inputs_are_left_as_they_were():
    given = parts()
    before = [t.detach().clone() for t in (*given[:4], given[4].weight)]
    chunked(*given, DistillWeights()).loss.backward()
    after = [*given[:4], given[4].weight]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert given[3].grad is None
    assert given[4].weight.grad is None


def test_narrow_logits_are_scored_in_float32():
    given = parts(torch.bfloat16, ignored=False)
    sums = chunked(*given, DistillWeights())
    assert sums.loss.dtype is torch.float32
    sums.loss.backward()
    assert given[0].grad.dtype is torch.bfloat16
    wide = [t.detach().double().requires_grad_() for t in given[:3]]
    teacher = Head(weight=given[4].weight.double())
    loss, *_ = naive(*wide, given[3].double(), teacher, given[5], DistillWeights())
    torch.testing.assert_close(sums.loss.double(), loss, rtol=2e-2, atol=0.2)
