"""The short convolution against torch's own, and what tail, documents and padding mean."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hydrahead.kernels.short_conv.reference import short_conv


def _inputs(tokens: int = 12, size: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    x = torch.randn(2, tokens, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, size, dtype=torch.float64, requires_grad=True)
    tail = torch.randn(2, 6, size - 1, dtype=torch.float64, requires_grad=True)
    return x, weight, tail


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("tokens", [1, 2, 12])
@pytest.mark.parametrize("biased", [False, True])
def test_equals_torch_conv1d(size: int, tokens: int, biased: bool) -> None:
    x, weight, tail = _inputs(tokens, size)
    bias = torch.randn(6, dtype=torch.float64) if biased else None
    out, new_tail = short_conv(x, weight, bias=bias, tail=tail)
    row = torch.cat((tail, x.mT), dim=-1)
    theirs = F.conv1d(row, weight.unsqueeze(1), bias, groups=6).mT
    torch.testing.assert_close(out, theirs)
    assert torch.equal(new_tail, row[..., tokens:])
    ours = torch.autograd.grad(out.square().sum(), (x, weight, tail), allow_unused=True)
    other = torch.autograd.grad(theirs.square().sum(), (x, weight, tail), allow_unused=True)
    for a, b in zip(ours, other, strict=True):
        torch.testing.assert_close(a, b)


def test_last_tap_alone_is_the_identity() -> None:
    x = torch.randn(2, 5, 6, dtype=torch.bfloat16)
    weight = torch.zeros(6, 4, dtype=torch.bfloat16)
    weight[:, -1] = 1
    assert torch.equal(short_conv(x, weight)[0], x)


@pytest.mark.parametrize("cuts", [[1], [2, 3, 4], [11]])
def test_a_row_in_pieces_equals_the_row(cuts: list[int]) -> None:
    x, weight, tail = _inputs()
    whole, last = short_conv(x, weight, tail=tail)
    outputs = []
    for start, stop in zip([0, *cuts], [*cuts, 12], strict=True):
        out, tail = short_conv(x[:, start:stop], weight, tail=tail)
        outputs.append(out)
    torch.testing.assert_close(torch.cat(outputs, dim=1), whole)
    assert torch.equal(tail, last)


def test_documents_do_not_see_each_other() -> None:
    x, weight, tail = _inputs()
    documents = torch.tensor([[0] * 2 + [1] * 1 + [2] * 9, [5] * 12])
    out, _ = short_conv(x, weight, tail=tail, documents=documents)
    first, _ = short_conv(x[:1, :2], weight, tail=tail[:1])
    second, _ = short_conv(x[:1, 2:3], weight)
    third, _ = short_conv(x[:1, 3:], weight)
    separate = torch.cat((first, second, third), dim=1)
    torch.testing.assert_close(out[:1], separate)
    torch.testing.assert_close(out[1:], short_conv(x[1:], weight, tail=tail[1:])[0])


@pytest.mark.parametrize("missing", [[], [0, 1, 2], [4, 5], [9, 10, 11], [0, 3, 7, 11], range(12)])
def test_tokens_that_are_not_valid_do_not_exist(missing: list[int]) -> None:
    x, weight, tail = _inputs()
    valid = torch.ones(2, 12, dtype=torch.bool)
    valid[0, list(missing)] = False
    poisoned = x.masked_fill(~valid.unsqueeze(-1), torch.nan)
    out, new_tail = short_conv(poisoned, weight, tail=tail, valid=valid)
    for row in range(2):
        kept = valid[row]
        theirs, last = short_conv(x[row : row + 1, kept], weight, tail=tail[row : row + 1])
        torch.testing.assert_close(out[row, kept], theirs[0])
        torch.testing.assert_close(new_tail[row], last[0])
    assert torch.equal(out[~valid], torch.zeros_like(out[~valid]))
    gradient = torch.autograd.grad(out.sum(), weight)[0]
    assert gradient.isfinite().all()
