"""The Falcon-H1 study at its CPU size: plans of its arms, resuming, and the page made of it."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores
from hydrahead.recipes.demo import SMALL_TEACHER

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Imports a module of the study by name; none of them stays imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS / "falcon_h1"))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in ("arms", "data", "step", "train", "from_teacher", "study", "page"):
        if name not in before:
            sys.modules.pop(name, None)


def test_mamba2_heads_stand_beside_the_very_same_choice(study: Any) -> None:
    scores = random_scores(ModelGeometry.from_pretrained(SMALL_TEACHER), seed=0)
    chosen = make_plan(scores, full_fraction=0.25, linear="window:window=16,sinks=4").plan
    arms = study("arms")
    beside = arms.teacher_plan("parallel", chosen)
    assert [layer.units for layer in beside.layers] == [layer.units for layer in chosen.layers]
    assert all([spec.name for spec in layer.parallel] == ["mamba2"] for layer in beside.layers)
    assert beside.cost(256).kv_bytes == chosen.cost(256).kv_bytes
    assert beside.cost(256).state_bytes > 0
    assert arms.teacher_plan("attention", chosen) == chosen


def test_every_phase_of_both_sizes_has_its_lesson(study: Any) -> None:
    data, small = study("data"), study("study").SMALL
    assert [phase.tasks for phase in small.phases(30)] == [data.TELLING_APART]
    assert [phase.length for phase in data.Extent().phases(100)] == [64, 128, 256, 512]


def test_a_stopped_run_makes_only_what_is_missing(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = study("from_teacher")
    first, *rest = small.FRACTIONS["attention"]
    kept = {"full_fraction": first[0], "chosen_by": first[1], "mark": "kept"}
    (tmp_path / "result_attention_0.json").write_text(json.dumps({"tested": {}, "sweep": [kept]}))
    run = small.TeacherRun.__new__(small.TeacherRun)
    run.scratch, run.arm, run.seed, run.device = tmp_path, "attention", 0, "cpu"
    made: list[tuple[float, str]] = []

    def one(scores: Any, fraction: float, chosen: str) -> dict[str, Any]:
        made.append((fraction, chosen))
        return {"full_fraction": fraction, "chosen_by": chosen}

    monkeypatch.setattr(small, "load_model", lambda *_, **__: None)
    monkeypatch.setattr(run, "score", lambda _: None)
    monkeypatch.setattr(run, "one", one)
    run.execute()
    assert made == list(rest)
    written = json.loads((tmp_path / "result_attention_0.json").read_text())["sweep"]
    assert written[0] == kept
    assert len(written) == 1 + len(rest)


def outcome(recall: float, losses: list[float]) -> dict[str, Any]:
    return {
        "recall": {"niah_single@256": recall},
        "text_loss": sum(losses) / len(losses),
        "loss_by_position": losses,
    }


def test_the_page_has_means_ranges_and_quarters_over_seeds(study: Any) -> None:
    start = outcome(1.0, [2.0] * 16)
    runs = [
        {
            "arm": "attention",
            "seed": seed,
            "tested": start,
            "sweep": [
                {
                    "full_fraction": fraction,
                    "chosen_by": "score",
                    "kv_bytes": 1000,
                    "state_bytes": 24,
                    "before_repair": outcome(0.0, [3.0] * 16),
                    "after_repair": outcome(recall, [4.0] * 4 + [2.0] * 12),
                }
                for fraction in (0.0, 0.5)
            ],
        }
        for seed, recall in ((0, 0.5), (1, 1.0))
    ]
    result = {
        "hardware": "a CPU",
        "git_commit": "0" * 40,
        "command": "study.py --small",
        "route": "reference",
        "steps": 30,
        "settings": {
            "base": "teacher",
            "extent": {
                "lengths": [256],
                "samples": 48,
                "tokens_per_step": 1024,
                "eval_lengths": [256],
            },
        },
        "runs": runs,
    }
    lines = study("page").section("From a teacher", result)
    swept = [line for line in lines if line.startswith("| attention")]
    assert swept[0] == "| attention | 0.5 | score | before | 2 | 1 | 0 (0 - 0) |"
    assert swept[1] == "| attention | 0.5 | score | after | 2 | 1 | 75 (50 - 100) |"
    assert swept[3].startswith("| attention | 0 | score | after")
    assert swept[5].endswith("| 2 | 1 | 2.50 | 4.00 | 2.00 | 2.00 | 2.00 |")
