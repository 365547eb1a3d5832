import pytest
import torch
import torch.nn.functional as F

from hydrahead.training.batch import IGNORE, Batch
from hydrahead.training.head_loss import Targets, chunked_cross_entropy


def batch_of(labels, weights=None):
    return Batch(
        input_ids=torch.zeros_like(labels),
        labels=labels,
        position_ids=torch.zeros_like(labels),
        target_weights=weights,
    )


def case(*, ignore, weighted=False):
    torch.manual_seed(0)
    hidden = torch.randn(2, 9, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 11, (2, 9))
    if ignore:
        labels[:, ::3] = IGNORE
    weights = torch.rand(2, 9) if weighted else None
    return hidden, weight, bias, batch_of(labels, weights)


def naive(hidden, weight, bias, batch):
    logits = F.linear(hidden, weight, bias).flatten(0, 1)
    losses = F.cross_entropy(logits, batch.labels.flatten(), reduction="none")
    if batch.target_weights is not None:
        losses = losses * batch.target_weights.flatten()
    return losses.sum(), (logits.argmax(-1) == batch.labels.flatten()).sum()


@pytest.mark.parametrize("chunk", [1, 4, 7, 100, None])
@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_the_naive_loss_and_its_gradients(chunk, ignore, weighted):
    hidden, weight, bias, batch = case(ignore=ignore, weighted=weighted)
    targets = Targets.of(batch)
    loss, right = chunked_cross_entropy(
        targets.rows(hidden), weight, bias, targets, chunk_tokens=chunk
    )
    expected, expected_right = naive(hidden, weight, bias, batch)
    torch.testing.assert_close(loss, expected)
    assert right.item() == expected_right.item()
    ours = torch.autograd.grad(2.5 * loss, (hidden, weight, bias))
    theirs = torch.autograd.grad(2.5 * expected, (hidden, weight, bias))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_weight_is_the_number_of_targets_or_their_weights():
    *_, batch = case(ignore=True)
    assert Targets.of(batch).weight.item() == 12
    *_, batch = case(ignore=False, weighted=True)
    torch.testing.assert_close(Targets.of(batch).weight, batch.target_weights.sum())


def test_a_batch_without_targets_has_loss_zero_and_zero_gradients():
    hidden, weight, bias, batch = case(ignore=False)
    targets = Targets.of(batch_of(torch.full_like(batch.labels, IGNORE)))
    loss, right = chunked_cross_entropy(targets.rows(hidden), weight, bias, targets)
    assert loss.item() == right.item() == targets.weight.item() == 0
    loss.backward()
    assert not hidden.grad.any()


def test_bfloat16_logits_are_scored_in_float32():
    hidden, weight, bias, batch = case(ignore=True)
    targets = Targets.of(batch)
    narrow = [t.detach().bfloat16() for t in (hidden, weight, bias)]
    loss, _ = chunked_cross_entropy(targets.rows(narrow[0]), narrow[1], narrow[2], targets)
    assert loss.dtype is torch.float32
    expected, _ = naive(*(t.double() for t in narrow), batch)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-2, atol=0.5)


class PeakElements(torch.utils._python_dispatch.TorchDispatchMode):
    """The largest tensor any operation makes."""

    def __init__(self):
        super().__init__()
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, list | tuple) else (out,):
            if isinstance(value, torch.Tensor):
                self.peak = max(self.peak, value.numel())
        return out


def test_the_logits_of_the_batch_never_exist():
    hidden = torch.randn(8, 16, 4, requires_grad=True)
    weight = torch.randn(50, 4, requires_grad=True)
    targets = Targets.of(batch_of(torch.randint(0, 50, (8, 16))))
    with PeakElements() as seen:
        loss, _ = chunked_cross_entropy(targets.rows(hidden), weight, None, targets, chunk_tokens=8)
        loss.backward()
    assert seen.peak <= max(8 * 50, hidden.numel())
