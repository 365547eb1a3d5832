"""Drawings: they fit 80 columns and say the same without colour."""

import io

import numpy as np
import pytest
from plan_cases import ParallelSpec, geometry, qwen3_1_7b, scores_of
from rich.console import Console, RenderableType

from hydrahead.plan.drawing import draw_cost, draw_plan, draw_scores, plan_marks
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import HeadScores, random_scores
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.window import WindowSpec


def drawn(picture: RenderableType, *, colour: bool = False) -> list[str]:
    console = Console(
        file=io.StringIO(),
        width=80,
        force_terminal=colour,
        color_system="standard" if colour else None,
    )
    console.print(picture)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_plan_is_drawn() -> None:
    model = geometry(layers=3, kv_heads=3, group=2, windows=(None, 16, None))
    plan = HeadPlan.uniform(model, GatedDeltaSpec(conv_size=0)).replace({(2, 1): FullSpec()})
    assert drawn(draw_plan(plan)) == [
        "qwen3, 3 layers x 3 kv_heads, full_fraction 0.1667",
        "0 ... 0 full",
        "1 www own window 16",
        "2 .#. 1 full",
        ". gated_delta(conv_size=0): 5",
        "w window(window=16, sinks=0): 3",
        "# full: 1",
    ]


def test_q_heads_are_drawn_in_their_groups() -> None:
    plan = HeadPlan.all_full(geometry(layers=1, kv_heads=3, group=2), "q_head")
    assert drawn(draw_plan(plan.replace({(0, 3): GatedDeltaSpec()})))[1] == "0 ## #. ## 5 full"


def test_specs_are_told_apart_without_colour() -> None:
    row = (FullSpec(), FullSpec(rope=False), WindowSpec(window=3), WindowSpec(window=4), FullSpec())
    model = geometry(layers=1, kv_heads=5, group=1)
    layer = LayerPlan(units=row, parallel=(ParallelSpec(),))
    plan = HeadPlan(geometry=model, layers=(layer,))
    marks = [mark for mark, _ in plan_marks(plan).values()]
    assert len(set(marks)) == len(marks) == 5
    lines = drawn(draw_plan(plan))
    assert lines[1] == "0 #fwi# 3 full, + parallel_for_tests"
    assert "f full(rope=False): 1" in lines


def test_scores_are_drawn() -> None:
    scores = scores_of(
        geometry(layers=2, kv_heads=2, group=2), [[0, 0.05, 0.5, 1], [-2, 0.99, 0.1, 0]]
    )
    lines = drawn(draw_scores(scores))
    assert lines[1:3] == ["0 .0 59 1", "1 -9 1. 0.99"]
    assert lines[-1] == "largest 1, exactly zero 25.0%"
    nothing = drawn(draw_scores(scores_of(scores.geometry, np.zeros((2, 4)))))
    assert nothing[1] == "0 .. .. 0"


def test_the_cost_is_drawn() -> None:
    scores = random_scores(qwen3_1_7b(), 0)
    lines = drawn(draw_cost(make_plan(scores, full_fraction=0.25).plan))
    assert [line.split()[0] for line in lines[2:]] == ["8K", "32K", "128K", "512K", "1M"]
    # a quarter of 56 GiB, and 168 states with their convolution's tail
    row = lines[5].split()
    assert row[1:3] == ["14.0", "GiB"]
    assert row[7] == "25.0%"
    all_full = drawn(draw_cost(HeadPlan.all_full(scores.geometry)))
    assert all(line.split().count("100.0%") == 2 for line in all_full[2:])


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize(
    ("kv_heads", "group"), [(8, 2), (8, 8), (1, 71), (128, 1), (4, 32), (96, 2)]
)
def test_everything_fits_the_terminal(kv_heads: int, group: int, colour: bool) -> None:
    scores: HeadScores = random_scores(geometry(layers=3, kv_heads=kv_heads, group=group), 0)
    plan = make_plan(scores, full_fraction=0.25, unit="q_head", preset="paper").plan
    for picture in (draw_plan(plan), draw_scores(scores), draw_cost(plan)):
        lines = drawn(picture, colour=colour)
        if not colour:
            assert max(map(len, lines)) <= 80
            assert not any("\N{HORIZONTAL ELLIPSIS}" in line for line in lines)
    text = "\n".join(drawn(draw_plan(plan))[1:-2])
    assert text.count("#") == plan.num_full_units
