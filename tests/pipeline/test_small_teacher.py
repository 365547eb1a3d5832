"""The bundled teacher recalls at its native context, measured by our own evaluation."""

import json
from pathlib import Path

import pytest

from hydrahead.evaluation import evaluate, read_results
from hydrahead.recipes.demo import SMALL_TEACHER


@pytest.fixture(scope="module")
def recall(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    out = tmp_path_factory.mktemp("teacher") / "evaluation"
    tasks = ("niah_single", "niah_multikey")
    evaluate([SMALL_TEACHER], tasks=tasks, lengths=(2048,), samples=40, batch_size=4, out=out)
    [model] = read_results(out).models
    return {task: model.summary(task, 2048).mean for task in tasks}


def test_it_finds_a_single_needle_at_2048_tokens(recall: dict[str, float]) -> None:
    assert recall["niah_single"] >= 0.95


def test_it_tells_four_needles_apart_at_2048_tokens(recall: dict[str, float]) -> None:
    assert recall["niah_multikey"] >= 0.90


def test_it_is_what_the_design_asks_for() -> None:
    config = json.loads((SMALL_TEACHER / "config.json").read_text())
    assert config["model_type"] == "qwen3"
    assert config["num_hidden_layers"] >= 8
    assert config["num_key_value_heads"] >= 4
    assert config["max_position_embeddings"] >= 2048
    weights = sum(path.stat().st_size for path in Path(SMALL_TEACHER).glob("*.safetensors"))
    assert weights <= 24 * 2**20
