"""fla's contract in a few lines of torch, to test our adapters to it without a GPU.

One state per head, g and beta per head, or a constant g_gamma; `cu_seqlens` for one flat row.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch import Tensor

from hydrahead.kernels.gated_delta.reference import gated_delta_recurrent
from hydrahead.kernels.lightning.reference import lightning_recurrent
from hydrahead.kernels.ssd.reference import ssd_recurrent


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make `fla.ops.gated_delta_rule`, `fla.ops.simple_gla` and `fla.ops.gla` importable."""
    delta, gla = ModuleType("fla.ops.gated_delta_rule"), ModuleType("fla.ops.simple_gla")
    rows = ModuleType("fla.ops.gla")
    setattr(rows, "chunk_gla", _gla)  # noqa: B010
    for name in ("chunk_gated_delta_rule", "fused_recurrent_gated_delta_rule"):
        setattr(delta, name, _gated_delta)
    for name in ("chunk_simple_gla", "fused_recurrent_simple_gla"):
        setattr(gla, name, _simple_gla)
    for module in (ModuleType("fla"), ModuleType("fla.ops"), delta, gla, rows):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def _gated_delta(
    *, q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, **settings: object
) -> tuple[Tensor, Tensor]:
    assert g.dtype == beta.dtype == torch.float32

    def run(piece: slice, state: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        cut = (x[:, piece] for x in (q, k, v, g, beta))
        return gated_delta_recurrent(*cut, scale=scale, initial_state=state)

    return _by_sequence(run, q, k, v, **settings)


def _gla(
    *, q: Tensor, k: Tensor, v: Tensor, g: Tensor, **settings: object
) -> tuple[Tensor, Tensor]:
    """A decay per row of the state; ours are all alike."""
    assert g.shape == q.shape
    assert torch.equal(g, g[..., :1].expand_as(g))
    return _simple_gla(q=q, k=k, v=v, g=g[..., 0], **settings)


def _simple_gla(
    *,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor | None = None,
    g_gamma: Tensor | None = None,
    **settings: object,
) -> tuple[Tensor, Tensor]:
    assert (g is None) != (g_gamma is None)
    if g is not None:
        assert g.dtype == torch.float32

        def run_gated(piece: slice, state: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
            cut = (x[:, piece] for x in (q, k, v, g))
            return ssd_recurrent(*cut, scale=scale, initial_state=state)

        return _by_sequence(run_gated, q, k, v, **settings)
    assert g_gamma is not None
    assert g_gamma.shape == (q.shape[2],)

    def run(piece: slice, state: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
        cut = (x[:, piece] for x in (q, k, v))
        return lightning_recurrent(*cut, g_gamma, scale=scale, initial_state=state)

    return _by_sequence(run, q, k, v, **settings)


def _by_sequence(
    run: Callable[[slice, Tensor | None, float], tuple[Tensor, Tensor]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor]:
    assert q.shape[2] == k.shape[2] == v.shape[2]
    assert q.dtype == k.dtype == v.dtype
    assert output_final_state
    if cu_seqlens is None:
        assert initial_state is None or initial_state.shape[0] == q.shape[0]
        return run(slice(None), initial_state, scale)
    borders = cu_seqlens.tolist()
    assert q.shape[0] == 1
    assert (borders[0], borders[-1]) == (0, q.shape[1])
    assert all(a < b for a, b in pairwise(borders)), "no empty sequences"
    assert initial_state is None or initial_state.shape[0] == len(borders) - 1
    results = [
        run(slice(a, b), None if initial_state is None else initial_state[i : i + 1], scale)
        for i, (a, b) in enumerate(pairwise(borders))
    ]
    return torch.cat([o for o, _ in results], dim=1), torch.cat([s for _, s in results])
