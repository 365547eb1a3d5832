"""Scoring as a call and as an artefact: complete, deterministic, resumable, and clear about what is
wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from byte_teachers import EASY, byte_teacher, byte_tokenizer

from hydrahead.core.artefacts import read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.progress import Progress
from hydrahead.model.loading import load_model
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.pair_log import PairLog
from hydrahead.scoring.run import make_scorer, score, score_heads
from hydrahead.scoring.table import SCORERS
from hydrahead.transfer.convert import convert

QUIET = Progress(silent=True)
METHODS = ("retrieval", "counterfactual")
SETTINGS: dict[str, dict[str, Any]] = {
    # A random model does nothing well; few pairs may be dropped for that here.
    "retrieval": EASY | {"min_recall": 0.0},
    "counterfactual": EASY | {"margin": 1e-9, "max_rounds": 1},
    "substitution": EASY | {"pairs": 1},
    "random": {},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return byte_teacher(tmp_path_factory.mktemp("models") / "teacher")


def run(teacher: Path, out: Path, method: str, **changes: Any) -> HeadScores:
    settings = SETTINGS[method] | changes.pop("settings", {})
    score(teacher, out=out, method=method, settings=settings, progress=QUIET, **changes)
    return HeadScores.load(out)


@pytest.mark.parametrize("method", METHODS)
def test_the_artefact_holds_scores_picture_and_pairs(
    teacher: Path, tmp_path: Path, method: str
) -> None:
    scores = run(teacher, tmp_path / "scores", method)
    assert scores.method == method
    assert scores.values.shape == (2, 4)
    probes = EASY["probes"]["retrieval"]
    assert scores.per_probe.shape == (len(scores.probes), 2, 4)
    assert scores.probes
    assert set(scores.probes) <= set(probes)
    assert scores.secondary.any()
    assert (tmp_path / "scores" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert set(scores.settings["dropped_pairs"]) == set(probes)
    lines = (tmp_path / "scores" / "pairs.jsonl").read_text().splitlines()
    pairs = [json.loads(line) for line in lines]
    assert {(pair["probe"], pair["pair"]) for pair in pairs} == {
        (probe, number) for probe in probes for number in range(2)
    }
    record = read_record(tmp_path / "scores")
    assert record.kind == "scores"
    assert record.configuration["method"] == method
    assert set(record.parents) == {"model"}


def test_random_scores_need_no_weights(teacher: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text((teacher / "config.json").read_text())
    scores = run(bare, tmp_path / "scores", "random", seed=5)
    again = run(teacher, tmp_path / "again", "random", seed=5)
    assert np.array_equal(scores.values, again.values)
    assert not np.array_equal(
        scores.values, run(teacher, tmp_path / "other", "random", seed=6).values
    )


@pytest.mark.parametrize("method", METHODS)
def test_scores_depend_on_the_seed_and_not_on_the_batch(teacher: Path, method: str) -> None:
    model, tokenizer = load_model(teacher), byte_tokenizer()

    def scored(**changes: Any) -> HeadScores:
        return score_heads(model, tokenizer, method=method, settings=SETTINGS[method], **changes)

    first = scored(batch_size=1)
    assert np.array_equal(scored(batch_size=1).values, first.values)
    for name in ("values", "secondary", "per_probe"):
        together = getattr(scored(batch_size=3), name)
        np.testing.assert_allclose(together, getattr(first, name), atol=1e-4)
    assert not np.allclose(scored(batch_size=1, seed=1).secondary, first.secondary)


class Stop(Exception):
    """Stands for a kill."""


def stop_after(count: int, monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Let `count` results be logged and stop at the next one."""
    put, done = PairLog.put, []

    def counting(self: PairLog, *args: Any) -> None:
        if len(done) == count:
            raise Stop
        put(self, *args)
        done.append(args[0])

    monkeypatch.setattr(PairLog, "put", counting)
    return lambda: len(done)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [0, 3, -1])
def test_a_stopped_run_goes_on(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, count: int
) -> None:
    """Stopped at once, after some pairs, and before the very last (of the search for senders)."""
    whole = run(teacher, tmp_path / "whole", method)
    total = len((tmp_path / "whole" / "pairs.jsonl").read_text().splitlines())
    count = count % total
    with monkeypatch.context() as patch:
        stop_after(count, patch)
        with pytest.raises(Stop):
            run(teacher, tmp_path / "scores", method)
    assert not (tmp_path / "scores").exists()
    with (tmp_path / "scores.partial" / ".work" / "scratch" / "pairs.jsonl").open("a") as log:
        log.write('{"phase":"receive","probe":"niah_sin')

    with monkeypatch.context() as patch:
        measured = stop_after(1000, patch)
        resumed = run(teacher, tmp_path / "scores", method, batch_size=1)
        assert measured() == total - count
    np.testing.assert_allclose(resumed.values, whole.values, atol=1e-4)
    assert not (tmp_path / "scores.partial").exists()


def test_a_finished_artefact_is_reused_or_refused(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(teacher, tmp_path / "scores", "retrieval")
    with monkeypatch.context() as patch:
        patch.setattr("hydrahead.scoring.run.load_model", None)
        run(teacher, tmp_path / "scores", "retrieval")
    with pytest.raises(HydraHeadError, match="seed"):
        run(teacher, tmp_path / "scores", "retrieval", seed=3)


def test_substitution_takes_twins_made_by_convert(teacher: Path, tmp_path: Path) -> None:
    from hydrahead.plan.geometry import ModelGeometry
    from hydrahead.plan.head_plan import HeadPlan
    from hydrahead.plan.specs.gated_delta import GatedDeltaSpec

    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(teacher), GatedDeltaSpec())
    twins = convert(teacher, plan, tmp_path / "twins")
    scores = run(teacher, tmp_path / "scores", "substitution", settings={"twins": str(twins)})
    assert scores.per_probe.min() > 0
    assert np.array_equal(scores.values[:, 0], scores.values[:, 1])  # one kv_head
    assert not np.array_equal(scores.values[:, 1], scores.values[:, 2])
    assert set(read_record(tmp_path / "scores").parents) == {"model", "twins"}
    with pytest.raises(HydraHeadError, match=r"is not a teacher: .* runs gated_delta"):
        run(twins, tmp_path / "more", "retrieval")
    assert not list(tmp_path.glob("more*"))


def test_layers_with_a_window_of_their_own_are_not_substituted(tmp_path: Path) -> None:
    from hydrahead.plan.geometry import ModelGeometry
    from hydrahead.plan.head_plan import HeadPlan
    from hydrahead.plan.specs.lightning import LightningSpec

    windows = {
        "use_sliding_window": True,
        "sliding_window": 50,
        "layer_types": ["sliding_attention", "full_attention"],
    }
    mixed = byte_teacher(tmp_path / "mixed", **windows)
    plan = HeadPlan.uniform(ModelGeometry.from_pretrained(mixed), LightningSpec())
    twins = convert(mixed, plan, tmp_path / "twins")
    scores = run(mixed, tmp_path / "scores", "substitution", settings={"twins": str(twins)})
    assert not scores.values[0].any()
    assert scores.per_probe[:, 1].min() > 0
    windowed = byte_teacher(tmp_path / "windowed", "mistral", sliding_window=50)
    with pytest.raises(HydraHeadError, match="no unit can be given away"):
        run(windowed, tmp_path / "none", "substitution", settings={"twins": str(twins)})


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("retrieval", {"length": 300}, "300 tokens long, the model's context is 256"),
        ("retrieval", {"length": 20}, "20 tokens are too few"),
        ("retrieval", {"probes": {"retrieval": ["niah_singel"]}}, "niah_single"),
        ("retrieval", {"probes": {"retrieval": ["niah_single", "niah_single"]}}, "named twice"),
        ("retrieval", {"min_recal": 0.1}, "did you mean 'min_recall'"),
        ("retrieval", {"min_recall": 0.9}, "cannot do the probes"),
        ("counterfactual", {"margin": 50.0}, "cannot do the retrieval probes at 1.. tokens"),
        ("counterfactual", {"probes": {"x": ["variable_tracking:hops=1"]}}, "no counterfactual"),
        ("substitution", {}, "'twins' is missing"),
        ("substitution", {"twins": "nowhere"}, "nowhere"),
        ("induction", {}, "known: retrieval, counterfactual"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    teacher: Path, tmp_path: Path, method: str, settings: dict[str, Any], message: str
) -> None:
    merged = SETTINGS.get(method, {}) | settings
    with pytest.raises(HydraHeadError, match=message):
        score(teacher, out=tmp_path / "out", method=method, settings=merged, progress=QUIET)
    assert not list(tmp_path.iterdir())


def test_a_foreign_tokenizer_is_refused(teacher: Path) -> None:
    class Wide:
        def encode(self, text: str) -> list[int]:
            return [1000 + ord(letter) for letter in text]

        def decode(self, ids: list[int]) -> str:
            return "".join(chr(token - 1000) for token in ids)

    with pytest.raises(HydraHeadError, match="vocabulary has 260"):
        score_heads(load_model(teacher), Wide(), method="retrieval", settings=SETTINGS["retrieval"])


def test_every_method_has_settings_that_refuse_unknown_keys() -> None:
    for method in SCORERS:
        with pytest.raises(HydraHeadError, match=r"unknown key 'nonsense'|is missing"):
            make_scorer(method, {"nonsense": 1})


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_scores_on_a_gpu_are_those_of_the_cpu(teacher: Path, tmp_path: Path, method: str) -> None:
    here = run(teacher, tmp_path / "cpu", method)
    there = run(teacher, tmp_path / "gpu", method, device="cuda")
    np.testing.assert_allclose(there.secondary, here.secondary, atol=1e-3)
    np.testing.assert_allclose(there.per_probe, here.per_probe, atol=1e-2)
