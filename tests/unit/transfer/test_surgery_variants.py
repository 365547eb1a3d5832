"""What a variant takes back, and the closed form of `pro` against the minimum it stands for."""

import pytest
import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.transfer.surgery_patches import HeldRows, patches
from hydrahead.transfer.surgery_rows import AttentionUnits, HeadRows, by_head
from hydrahead.transfer.surgery_variants import Variant, closed_form, parse_variant

WIDTH, HIDDEN = 4, 10


def random(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit() -> AttentionUnits:
    """Three query heads, gates behind them, over two key heads of groups 2 and 1."""
    return AttentionUnits(
        layer=0,
        kind="full",
        q=HeadRows(module="q", heads=by_head(3, WIDTH, stride=2 * WIDTH), norm="q_norm"),
        k=HeadRows(module="k", heads=by_head(2, WIDTH), norm="k_norm"),
        v=HeadRows(module="v", heads=by_head(2, WIDTH), norm=None),
        kv_of_q=(0, 0, 1),
    )


def state(seed: int) -> dict[str, torch.Tensor]:
    shapes = {
        "q.weight": (3 * 2 * WIDTH, HIDDEN),
        "k.weight": (2 * WIDTH, HIDDEN),
        "v.weight": (2 * WIDTH, HIDDEN),
        "q.bias": (3 * 2 * WIDTH,),
        "k.bias": (2 * WIDTH,),
        "q_norm": (WIDTH,),
        "k_norm": (WIDTH,),
    }
    return {name: random(*shape, seed=seed + i) for i, (name, shape) in enumerate(shapes.items())}


PRE, POST = state(0), state(100)
QUERY_ROWS = [row for start, stop in unit().q.heads for row in range(start, stop)]


def applied(variant: Variant) -> dict[str, torch.Tensor]:
    result = {name: value.clone() for name, value in POST.items()}
    for patch in patches([unit()], variant, HeldRows(PRE), HeldRows(POST)):
        result[patch.tensor][slice(*patch.span)] = patch.values()
    return result


def changed(variant: Variant) -> set[str]:
    result = applied(variant)
    return {name for name in POST if not torch.equal(result[name], POST[name])}


@pytest.mark.parametrize(
    ("name", "tensors"),
    [
        ("qk", {"q.weight", "k.weight"}),
        ("q", {"q.weight"}),
        ("k", {"k.weight"}),
        ("v", {"v.weight"}),
        ("pro", {"q.weight", "k.weight"}),
        ("qk+norms", {"q.weight", "k.weight", "q_norm", "k_norm"}),
        ("qk+bias", {"q.weight", "k.weight", "q.bias", "k.bias"}),
        ("q+bias+norms", {"q.weight", "q.bias", "q_norm"}),
    ],
)
def test_only_the_variants_tensors_change(name: str, tensors: set[str]) -> None:
    assert changed(parse_variant(name)) == tensors


def test_gate_rows_stay() -> None:
    result = applied(parse_variant("qk+bias"))
    others = [row for row in range(3 * 2 * WIDTH) if row not in QUERY_ROWS]
    for name in ("q.weight", "q.bias"):
        assert torch.equal(result[name][QUERY_ROWS], PRE[name][QUERY_ROWS])
        assert torch.equal(result[name][others], POST[name][others])


def test_alpha_goes_straight_from_post_to_pre() -> None:
    assert torch.equal(applied(parse_variant("qk", alpha=0.0))["k.weight"], POST["k.weight"])
    half = applied(parse_variant("qk", alpha=0.5))["k.weight"]
    assert torch.allclose(half, (PRE["k.weight"] + POST["k.weight"]) / 2, rtol=0, atol=1e-15)


def test_lambda_to_zero_is_qk() -> None:
    exact = applied(parse_variant("qk"))
    for lambda_, tolerance in ((0.0, 1e-12), (1e-9, 1e-6), (1e-6, 1e-3)):
        near = applied(parse_variant("pro", lambda_=lambda_))
        for name in exact:
            assert torch.allclose(near[name], exact[name], rtol=0, atol=tolerance), (name, lambda_)


def test_lambda_without_end_keeps_the_queries() -> None:
    far = applied(parse_variant("pro", lambda_=1e12))
    assert torch.allclose(far["q.weight"], POST["q.weight"], rtol=0, atol=1e-9)
    assert torch.equal(far["k.weight"], PRE["k.weight"])


def test_the_closed_form_is_the_minimum() -> None:
    post, pre, key = (random(WIDTH, HIDDEN, seed=seed) for seed in (1, 2, 3))
    lambda_ = 0.3
    ridge = lambda_ * (key @ key.T).trace() / WIDTH
    query = closed_form(post, pre, key, lambda_).requires_grad_()
    loss = ridge * (query - post).square().sum() + (key.T @ (query - pre)).square().sum()
    [gradient] = torch.autograd.grad(loss, query)
    assert gradient.abs().max() < 1e-12 * loss.detach() + 1e-10


def test_the_closed_form_as_it_was_reported() -> None:
    """W + S-form equals W_q + (R - W_q W_k^T)(W_k W_k^T + l I)^-1 W_k in row-vector convention."""
    post, pre, key = (random(WIDTH, HIDDEN, seed=seed) for seed in (4, 5, 6))
    ridge = 0.2 * (key @ key.T).trace() / WIDTH
    rows_post, rows_pre, rows_key = post.T, pre.T, key.T  # [d, e]
    routing = rows_pre @ rows_key.T
    inverse = torch.linalg.inv(rows_key @ rows_key.T + ridge * torch.eye(HIDDEN).double())
    reported = rows_post + (routing - rows_post @ rows_key.T) @ inverse @ rows_key
    assert torch.allclose(closed_form(post, pre, key, 0.2), reported.T, rtol=0, atol=1e-10)


def test_directions_without_keys_keep_post() -> None:
    post, pre, key = (random(WIDTH, HIDDEN, seed=seed) for seed in (7, 8, 9))
    key[2:] = 0.0  # S has rank 2: its first two axes
    query = closed_form(post, pre, key, 0.0)
    assert torch.allclose(query[:2], pre[:2], rtol=0, atol=1e-10)
    assert torch.allclose(query[2:], post[2:], rtol=0, atol=1e-10)


def test_each_query_head_reads_its_own_keys() -> None:
    result = applied(parse_variant("pro", lambda_=0.7))["q.weight"]
    for (start, stop), kv_head in zip(unit().q.heads, (0, 0, 1), strict=True):
        key = PRE["k.weight"][slice(*unit().k.heads[kv_head])]
        expected = closed_form(POST["q.weight"][start:stop], PRE["q.weight"][start:stop], key, 0.7)
        assert torch.equal(result[start:stop], expected)


def test_values_are_read_when_they_are_asked_for() -> None:
    pre = {name: value.clone() for name, value in PRE.items()}
    found = patches([unit()], parse_variant("k"), HeldRows(pre), HeldRows(POST))
    pre["k.weight"] += 1.0
    assert torch.equal(found[0].values(), PRE["k.weight"] + 1.0)


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("kq", {}, "unknown variant"),
        ("qk+gates", {}, "unknown variant"),
        ("qk+bias+bias", {}, "unknown variant"),
        ("v+norms", {}, "values have no norms"),
        ("qk", {"lambda_": 0.1}, "only the variant pro"),
        ("pro", {"lambda_": -1.0}, "lambda is"),
        ("pro", {"lambda_": float("nan")}, "lambda is"),
        ("qk", {"alpha": float("nan")}, "alpha is"),
    ],
)
def test_wrong_requests(text: str, settings: dict[str, float], message: str) -> None:
    with pytest.raises(HydraHeadError, match=message):
        parse_variant(text, **settings)


def test_norms_and_biases_that_are_not_there() -> None:
    bare = {name: value for name, value in PRE.items() if "bias" not in name}
    with pytest.raises(HydraHeadError, match="no biases to restore"):
        patches([unit()], parse_variant("qk+bias"), HeldRows(bare), HeldRows(bare))
