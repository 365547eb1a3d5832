"""The table of an evaluation is readable in 80 columns, whatever was compared."""

import io

import pytest
from rich.console import Console

from hydrahead.cli_inspect import score_table

TASKS = ("niah_single", "niah_multikey:keys=2", "perplexity")


def drawn(models: list[str]) -> list[str]:
    cells = {task: {model: "0.125 (0.012)" for model in models} for task in TASKS}
    console = Console(file=io.StringIO(), width=80)
    console.print(score_table(cells, models))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.splitlines()]


def test_few_models_stand_side_by_side() -> None:
    lines = drawn(["teacher", "hybrid"])
    assert len(lines) == 1 + len(TASKS)
    assert lines[0].split() == ["task", "teacher", "hybrid"]


@pytest.mark.parametrize(
    "models",
    [
        [f"hybrid_{n}" for n in range(7)],
        ["qwen3_with_a_quarter_full", "qwen3_with_an_eighth_full", "qwen3"],
    ],
)
def test_many_models_stand_below_each_other(models: list[str]) -> None:
    lines = drawn(models)
    assert len(lines) == 1 + len(TASKS) * len(models)
    assert [line.split()[-3] for line in lines[1 : 1 + len(models)]] == models
    assert max(map(len, lines)) <= 80
