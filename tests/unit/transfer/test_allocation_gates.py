"""Gates: the distribution, its gradients, and the constraint on random losses."""

import math
from typing import Any

import pytest
import torch

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.transfer.allocation.config import AllocateConfig
from hydrahead.transfer.allocation.discretise import (
    find_target,
    gate_scores,
    round_gates,
    with_pair,
)
from hydrahead.transfer.allocation.gates import GATES
from hydrahead.transfer.allocation.hard_concrete import HardConcrete
from hydrahead.transfer.allocation.l0_gates import L0Gates
from hydrahead.transfer.allocation.l1_gates import L1Gates
from hydrahead.transfer.allocation.optimiser import GateOptimiser
from hydrahead.transfer.allocation.pair import parse_pair
from tiny_hybrids import GEOMETRY

WIDE = GEOMETRY.model_copy(update={"num_layers": 10, "layer_windows": (None,) * 10})
SHAPES = [HardConcrete(), HardConcrete(beta=0.5, gamma=-0.3, zeta=1.2)]


def drawn(distribution: HardConcrete, log_odds: float, count: int = 200_000) -> torch.Tensor:
    uniform = torch.rand(count, generator=torch.Generator().manual_seed(0))
    return distribution.sample(torch.full((count,), log_odds), uniform)


@pytest.mark.parametrize("distribution", SHAPES)
@pytest.mark.parametrize("log_odds", [-5.0, -1.6, 0.0, 2.0, 5.0])
def test_closed_forms_agree_with_monte_carlo(distribution: HardConcrete, log_odds: float) -> None:
    gates = drawn(distribution, log_odds)
    at = torch.tensor(log_odds)
    error = 4 * 0.5 / math.sqrt(len(gates))  # four standard errors of a share, at worst
    assert gates.min() >= 0
    assert gates.max() <= 1
    assert (gates > 0).float().mean().item() == pytest.approx(
        distribution.open_probability(at).item(), abs=error
    )
    assert (gates == 1).float().mean().item() == pytest.approx(
        distribution.one_probability(at).item(), abs=error
    )


@pytest.mark.parametrize(
    ("log_odds", "not_zero", "one", "mean"),
    [(5.0, 0.9986, 0.968, 0.991), (2.0, 0.973, 0.599, 0.857), (0.0, 0.832, 0.168, 0.5)],
)
def test_it_has_the_known_values(log_odds: float, not_zero: float, one: float, mean: float) -> None:
    distribution, at = HardConcrete(), torch.tensor(log_odds)
    assert distribution.open_probability(at).item() == pytest.approx(not_zero, abs=1e-3)
    assert distribution.one_probability(at).item() == pytest.approx(one, abs=1e-3)
    assert drawn(distribution, log_odds).mean().item() == pytest.approx(mean, abs=4e-3)


def test_gradients_are_those_of_finite_differences() -> None:
    distribution = HardConcrete()
    log_odds = torch.linspace(-3, 3, 13, dtype=torch.float64, requires_grad=True)
    uniform = torch.linspace(0.1, 0.9, 13, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: distribution.sample(a, uniform), log_odds)
    assert torch.autograd.gradcheck(distribution.open_probability, log_odds)
    cut = torch.tensor([8.0, -8.0], dtype=torch.float64, requires_grad=True)
    distribution.sample(cut, torch.tensor([0.5, 0.5], dtype=torch.float64)).sum().backward()
    assert torch.equal(cut.grad, torch.zeros(2, dtype=torch.float64))


def gates_of(
    fraction: float, scope: Any, shape: tuple[int, int] = (10, 8), **changes: Any
) -> tuple[L0Gates, AllocateConfig]:
    config = AllocateConfig(**{"steps": 1000, **changes})
    return L0Gates(shape, scope=scope, full_fraction=fraction, config=config), config


def descend(gates: Any, optimiser: GateOptimiser, steps: range, slopes: torch.Tensor) -> None:
    """Train on a loss that is linear in the gates, with noise of its own each step."""
    for step in steps:
        noise = torch.randn(slopes.shape, generator=torch.Generator().manual_seed(step))
        loss = ((slopes + 0.02 * noise) * gates.values(step)).sum() + gates.penalty(step)
        loss.backward()
        optimiser.gradient_norm()
        optimiser.scale_and_clip(1.0, 1.0)
        optimiser.step(1e-4)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_the_global_constraint_is_met(fraction: float) -> None:
    gates, config = gates_of(fraction, "global")
    slopes = -0.1 * torch.rand(10, 8, generator=torch.Generator().manual_seed(1))
    descend(gates, GateOptimiser(gates, num_steps=config.steps, weights=None), range(1000), slopes)
    assert gates.expected().item() == pytest.approx(fraction, abs=0.01)


def test_every_layer_meets_a_layer_constraint() -> None:
    gates, config = gates_of(0.5, "layer", (4, 8))
    assert gates.constraint.linear.shape == (4,)
    slopes = -0.1 * torch.rand(4, 8, generator=torch.Generator().manual_seed(1))
    slopes[0] *= 5  # a layer that matters more than the others keeps no more for it
    descend(gates, GateOptimiser(gates, num_steps=config.steps, weights=None), range(1000), slopes)
    expected = config.hard_concrete.open_probability(gates.log_odds.detach()).mean(dim=1)
    assert expected.tolist() == pytest.approx([0.5] * 4, abs=0.02)


def test_what_matters_stays_open() -> None:
    gates, config = gates_of(0.25, "global", (2, 8))
    slopes = torch.full((2, 8), -0.01)
    slopes[0, 3] = slopes[1, 0] = slopes[1, 1] = slopes[1, 7] = -1.0
    descend(gates, GateOptimiser(gates, num_steps=config.steps, weights=None), range(1000), slopes)
    best = gates.openness.flatten().topk(4).indices.sort().values
    assert best.tolist() == [3, 8, 9, 15]
    assert gates.undecided() == 0


def test_multipliers_ascend_and_the_quadratic_one_only_grows() -> None:
    gates, _ = gates_of(0.5, "global", target_warmup=0.0)
    optimiser = GateOptimiser(gates, num_steps=20, weights=None)
    descend(gates, optimiser, range(20), torch.zeros(10, 8))
    linear, quadratic = optimiser.multipliers.T
    assert linear[1] > 0  # more is open than wanted
    assert (quadratic[1:] > quadratic[:-1]).all()


def test_a_target_falls_to_the_budget_and_stays() -> None:
    gates, _ = gates_of(0.25, "global", steps=100, target_warmup=0.5)
    wanted = [gates.wanted(step) for step in range(100)]
    assert wanted[0] == pytest.approx(1 - 0.75 / 50)
    assert wanted == sorted(wanted, reverse=True)
    assert wanted[49:] == [0.25] * 51


def test_gates_are_the_same_for_a_step_whoever_asks() -> None:
    first, _ = gates_of(0.5, "global", seed=3, initial_log_odds=0.0)
    again, _ = gates_of(0.5, "global", seed=3, initial_log_odds=0.0)
    other, _ = gates_of(0.5, "global", seed=4, initial_log_odds=0.0)
    first.values(0)
    torch.manual_seed(9)
    assert torch.equal(first.values(7), again.values(7))
    assert not torch.equal(first.values(7), first.values(8))
    assert not torch.equal(first.values(7), other.values(7))


def test_the_l1_form_has_no_noise_and_stays_in_range() -> None:
    config = AllocateConfig(steps=100, l1_lr=0.2)
    gates = L1Gates((2, 4), scope="global", full_fraction=0.5, config=config)
    slopes = torch.zeros(2, 4)
    slopes[1] = -1.0
    optimiser = GateOptimiser(gates, num_steps=100, weights=None)
    assert torch.equal(gates.values(0), gates.values(1))
    for step in range(100):
        ((slopes * gates.values(step)).sum() + gates.penalty(step)).backward()
        optimiser.gradient_norm()
        optimiser.scale_and_clip(1.0, 1.0)
        optimiser.step(1e-4)
    assert torch.equal(gates.openness, torch.tensor([[0.0] * 4, [1.0] * 4]))
    assert [gates.rate(step) for step in (0, 19, 50, 99)] == pytest.approx([0.05, 1, 1, 0.1])


def test_every_form_of_gates_is_in_the_table() -> None:
    assert {GATES.load(name) for name in GATES} == {L0Gates, L1Gates}


PAIR = parse_pair("full:window:window=5", length=64)


def plan_for(geometry: ModelGeometry, openness: torch.Tensor, **budget: Any) -> HeadPlan:
    asked = {"full_fraction": None, "kv_bytes": None, "unit": "kv_head", "scope": "global"}
    target = find_target(geometry, PAIR, **{**asked, **budget})
    scores = gate_scores(geometry, openness, openness[None], {})
    return with_pair(round_gates(scores, PAIR, target).plan, PAIR)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.6, 0.95])
def test_the_count_is_exact_whatever_the_gates(fraction: float) -> None:
    for openness in (torch.full((10, 2), 5.0), torch.full((10, 2), -5.0), torch.randn(10, 2)):
        plan = plan_for(WIDE, openness, full_fraction=fraction)
        assert plan.num_full_units == math.floor(20 * fraction + 0.5)


def test_the_most_open_units_are_kept() -> None:
    openness = torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    plan = plan_for(WIDE, openness, full_fraction=0.3)
    kept = {2 * layer + unit for layer, unit, spec in plan.free_units() if spec.name == "full"}
    assert kept == set(openness.flatten().topk(6).indices.tolist())


def test_a_layer_scope_gives_every_layer_the_same() -> None:
    plan = plan_for(WIDE, torch.randn(10, 2), full_fraction=0.4, scope="layer")
    assert [len(plan.slots_of(layer, PAIR.kept)) for layer in range(10)] == [1] * 10


def test_whole_layers_are_kept_where_they_are_the_unit() -> None:
    openness = torch.arange(10.0)[:, None]
    plan = plan_for(WIDE, openness, full_fraction=0.2, unit="layer")
    kept = [layer for layer in range(10) if plan.slots_of(layer, PAIR.kept) == (0, 1)]
    assert kept == [8, 9]
    assert plan.num_full_units == 4


def test_bytes_are_met_as_exactly_as_units_allow() -> None:
    context = 128
    of = [plan_for(WIDE, torch.randn(10, 2), full_fraction=n / 20) for n in (7, 8)]
    enough, more = (plan.cost(context).total_bytes for plan in of)
    plan = plan_for(WIDE, torch.randn(10, 2), kv_bytes=(more - 1, context))
    assert plan.cost(context).total_bytes == enough


def test_layers_with_a_window_of_their_own_have_no_gates() -> None:
    own = WIDE.model_copy(update={"layer_windows": (3, *(None,) * 9)})
    plan = plan_for(own, torch.randn(9, 2), full_fraction=0.5)
    assert plan.num_full_units == 9
    assert {spec.window for spec in plan.layers[0].units} == {3}  # type: ignore[attr-defined]


def test_equal_gates_are_ordered_by_their_history() -> None:
    history = torch.zeros(5, 10, 2)
    history[2, 4, 1] = 1.0
    scores = gate_scores(WIDE, torch.full((10, 2), 8.0), history, {})
    target = find_target(
        WIDE, PAIR, full_fraction=0.05, kv_bytes=None, unit="kv_head", scope="global"
    )
    assert round_gates(scores, PAIR, target).plan.slots_of(4, PAIR.kept) == (1,)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"full_fraction": 0.0}, "between 0 and 1"),
        ({"full_fraction": 1.0}, "between 0 and 1"),
        ({"full_fraction": float("nan")}, "between 0 and 1"),
        ({"full_fraction": 0.01}, "rounds to 0 of 20"),
        ({"full_fraction": 0.2, "scope": "layer"}, "rounds to 0 of 2 kv_heads of a layer"),
        ({"full_fraction": 0.5, "scope": "layer", "unit": "layer"}, "--scope global"),
        ({"full_fraction": 0.5, "unit": "q_head"}, "kv_head or layer"),
        ({"full_fraction": 0.5, "kv_bytes": (1, 1)}, "two budgets"),
        ({}, "no budget"),
        ({"kv_bytes": (1, 128)}, "too few"),
    ],
)
def test_budgets_that_cannot_be_are_refused(budget: dict[str, Any], words: str) -> None:
    with pytest.raises(HydraHeadError, match=words):
        plan_for(WIDE, torch.zeros(10, 2), **budget)
