"""Rows to one flat row of sequences, and back."""

import torch

from hydrahead.kernels.packing import pack


def test_documents_become_sequences() -> None:
    x = torch.arange(12.0).reshape(2, 6, 1)
    documents = torch.tensor([[1, 1, 2, 5, 5, 5], [5, 5, 5, 5, 6, 6]])
    packing = pack(x, documents)
    assert packing.cu_seqlens.tolist() == [0, 2, 3, 6, 10, 12]
    assert packing.first.tolist() == [0, 3]
    assert packing.last.tolist() == [2, 4]
    assert packing.flatten(x).flatten().tolist() == list(range(12))
    assert torch.equal(packing.restore(packing.flatten(x)), x)
    spread = packing.spread(torch.tensor([[7.0], [8.0]]))
    assert spread is not None
    assert spread.flatten().tolist() == [7, 0, 0, 8, 0]
    after = packing.collect(torch.arange(5.0).unsqueeze(1), None)
    assert after.flatten().tolist() == [2, 4]


def test_padding_is_left_out() -> None:
    x = torch.arange(1.0, 13.0).reshape(3, 4, 1)
    valid = torch.tensor([[False, True, True, False], [False] * 4, [True] * 4])
    packing = pack(x, None, valid)
    assert packing.cu_seqlens.tolist() == [0, 2, 3, 7]
    flat = packing.flatten(x)
    assert flat.flatten().tolist() == [2, 3, 5, 9, 10, 11, 12]
    back = packing.restore(flat)
    assert torch.equal(back[valid], x[valid])
    before = torch.tensor([[10.0], [20.0], [30.0]])
    assert packing.collect(torch.zeros(3, 1), before).flatten().tolist() == [0, 20, 0]
