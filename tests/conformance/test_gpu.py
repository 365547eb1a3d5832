"""The laws on a GPU: its routes give what the CPU gives, and no mask grows with the square."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hydrahead.model.cache import HydraCache
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.window import WindowSpec
from tiny_hybrids import GEOMETRY, PLANS, assert_close, left_padded, tiny_hybrid, tokens

pytestmark = pytest.mark.gpu

LENGTHS = (30, 1, 90, 79)
WIDE = GEOMETRY.model_copy(update={"head_dim": 64, "max_positions": 32768})
SOFTMAX = {
    "full": HeadPlan.uniform(WIDE, FullSpec()),
    "window": HeadPlan.uniform(WIDE, WindowSpec(window=16, sinks=0)),
    "window_with_sinks": HeadPlan.uniform(WIDE, WindowSpec(window=16, sinks=4)),
}


@pytest.fixture(autouse=True)
def full_precision_products() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def packed() -> Tensor:
    return torch.cat([torch.arange(length) for length in LENGTHS])[None]


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize("name", PLANS)
@torch.no_grad()
def test_the_gpu_gives_what_the_cpu_gives(name: str) -> None:
    """One shot, packed, padded, in pieces, token by token, growing and allocated once."""
    cpu = tiny_hybrid(PLANS[name], dtype=torch.float64)
    gpu = tiny_hybrid(PLANS[name], dtype=torch.float32).cuda()
    ids, mask = left_padded((70, 40, 5))
    real = mask.bool()
    assert_close(gpu(ids.cuda()).logits.cpu().double(), cpu(ids).logits, 2e-3)

    rows = tokens(2, sum(LENGTHS))
    want = cpu(rows, position_ids=packed()).logits
    assert_close(gpu(rows.cuda(), position_ids=packed().cuda()).logits.cpu().double(), want, 2e-3)

    want = cpu(ids, attention_mask=mask).logits[real]
    ids, mask = ids.cuda(), mask.cuda()
    for capacity in (None, 80):
        cache, pieces = HydraCache(capacity), []
        for start, stop in ((0, 33), (33, 66), (66, 67), (67, 68), (68, 70)):
            out = gpu(ids[:, start:stop], attention_mask=mask[:, :stop], past_key_values=cache)
            pieces.append(out.logits)
        got = torch.cat(pieces, 1)[real.cuda()]
        assert_close(got.cpu().double(), want, 2e-3)


@pytest.mark.parametrize("kind", SOFTMAX)
def test_packed_rows_in_half_precision(kind: str) -> None:
    """Variable-length attention: outputs and gradients, against documents one by one in fp32."""
    wide = tiny_hybrid(SOFTMAX[kind], dtype=torch.float32).cuda()
    narrow = tiny_hybrid(SOFTMAX[kind], dtype=torch.float32).cuda().to(torch.bfloat16)
    ids = tokens(2, sum(LENGTHS)).cuda()
    apart = torch.cat([wide.model(part).last_hidden_state for part in ids.split(LENGTHS, 1)], 1)
    together = narrow.model(ids, position_ids=packed().cuda()).last_hidden_state
    assert rms(together - apart) < 0.05 * rms(apart)
    for hidden in (apart, together):
        (hidden.float() * torch.linspace(-1, 1, hidden.shape[-1], device="cuda")).sum().backward()
    for (name, a), (_, b) in zip(
        wide.model.named_parameters(), narrow.model.named_parameters(), strict=True
    ):
        assert a.grad is not None
        assert b.grad is not None
        assert rms(b.grad - a.grad) < 0.15 * rms(a.grad) + 1e-6, name


@pytest.mark.parametrize("kind", SOFTMAX)
@torch.no_grad()
def test_memory_does_not_grow_with_the_square(kind: str) -> None:
    """16K tokens: a mask or score matrix of 16K x 16K alone would take 256 MiB or more."""
    model = tiny_hybrid(SOFTMAX[kind], dtype=torch.float32).cuda().to(torch.bfloat16)
    ids = tokens(1, 16384).cuda()
    documents = torch.arange(16384, device="cuda")[None] % 4096
    cache = HydraCache()
    runs = {
        "one shot": lambda: model.model(ids, use_cache=False),
        "packed": lambda: model.model(ids, position_ids=documents),
        "first half": lambda: model.model(ids[:, :8192], past_key_values=cache),
        "second half": lambda: model.model(ids[:, 8192:], past_key_values=cache),
    }
    for what, run in runs.items():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        assert torch.cuda.max_memory_allocated() - before < 200 * 2**20, what


@pytest.mark.parametrize("kind", SOFTMAX)
@torch.no_grad()
def test_long_pieces_equal_one_shot_in_half_precision(kind: str) -> None:
    model = tiny_hybrid(SOFTMAX[kind], dtype=torch.float32).cuda().to(torch.bfloat16)
    ids = tokens(2, 5000).cuda()
    whole = model.model(ids, use_cache=False).last_hidden_state.float()
    for capacity in (None, 5000):
        cache = HydraCache(capacity)
        pieces = [
            model.model(part, past_key_values=cache).last_hidden_state
            for part in ids.split((3000, 1999, 1), dim=1)
        ]
        assert rms(torch.cat(pieces, 1).float() - whole) < 0.03 * rms(whole)
