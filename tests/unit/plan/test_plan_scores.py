"""HeadScores: what they hold, their files, and how reliable a ranking is."""

import json
from pathlib import Path

import numpy as np
import pytest
from plan_cases import geometry, scores_of

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.reliability import average_ranks, spearman, split_half_reliability
from hydrahead.plan.scores import HeadScores, random_scores

MODEL = geometry(layers=2, kv_heads=2, group=2)


def rich_scores() -> HeadScores:
    generator = np.random.default_rng(0)
    return HeadScores(
        geometry=MODEL,
        method="retrieval",
        values=generator.random((2, 4)),
        secondary=generator.random((2, 4)),
        probes=("one", "two", "three"),
        per_probe=generator.random((3, 2, 4)),
        kappa=generator.random((2, 2, 4)),
        extras={"receiver": generator.random((3, 2, 4)), "mass": generator.random((2, 4))},
        split_half_reliability=0.5,
        split_half_non_zero=None,
        settings={"samples": 8, "margin": 0.1, "tasks": ["niah_single"]},
    )


def test_scores_survive_their_files(tmp_path: Path) -> None:
    scores = rich_scores()
    scores.save(tmp_path)
    again = HeadScores.load(tmp_path)
    for name in ("values", "secondary", "per_probe", "kappa"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scores, name))
    assert again.extras.keys() == scores.extras.keys()
    for name, array in scores.extras.items():
        np.testing.assert_array_equal(again.extras[name], array)
    for name in ("geometry", "method", "probes", "settings", "split_half_reliability"):
        assert getattr(again, name) == getattr(scores, name)
    assert again.split_half_non_zero is None


def test_the_same_scores_give_the_same_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    rich_scores().save(tmp_path / "a")
    rich_scores().save(tmp_path / "b")
    for name in ("scores.json", "scores.npz"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["scores.json", "scores.npz"]


def test_few_fields_are_enough(tmp_path: Path) -> None:
    scores_of(MODEL, [[1, 2, 3, 4], [0, 0, 0, 5]]).save(tmp_path)
    again = HeadScores.load(tmp_path)
    assert (again.secondary, again.per_probe, again.kappa, again.probes) == (None, None, None, ())


def test_kv_heads_take_the_maximum_of_their_group() -> None:
    scores = scores_of(MODEL, [[1, 2, 3, 0], [0, -1, -5, -3]])
    np.testing.assert_array_equal(scores.kv_head_values(), [[2, 3], [0, -3]])
    assert scores.zero_fraction == 2 / 8


def test_arrays_are_copied_and_read_only() -> None:
    values = np.ones((2, 4), dtype=np.float32)
    scores = HeadScores(geometry=MODEL, method="by hand", values=values)
    values[0, 0] = 9
    assert scores.values[0, 0] == 1
    assert scores.values.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        scores.values[0, 0] = 2


def test_wrong_arrays_are_named() -> None:
    good = np.ones((2, 4))
    with pytest.raises(HydraHeadError, match=r"values has the shape \[4, 2\].*2 layers and 4 q_h"):
        HeadScores(geometry=MODEL, method="m", values=good.T)
    with pytest.raises(HydraHeadError, match="secondary has the shape"):
        HeadScores(geometry=MODEL, method="m", values=good, secondary=good[None])
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(HydraHeadError, match=r"values is not finite at \[1, 2\]"):
        HeadScores(geometry=MODEL, method="m", values=bad)
    with pytest.raises(HydraHeadError, match=r"mass is not finite"):
        HeadScores(geometry=MODEL, method="m", values=good, extras={"mass": bad})
    with pytest.raises(HydraHeadError, match="1 probe names for 2 probes"):
        HeadScores(
            geometry=MODEL, method="m", values=good, probes=("a",), per_probe=np.ones((2, 2, 4))
        )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("scores.npz", lambda data: data[:-30]),
        ("scores.npz", lambda data: data[:40]),
        ("scores.npz", lambda data: b""),
        ("scores.npz", lambda data: b"text, no archive"),
        ("scores.npz", lambda data: data[:120] + bytes(20) + data[140:]),
        ("scores.npz", None),
        ("scores.json", lambda data: data[:-30]),
        ("scores.json", lambda data: b"[1, 2]"),
        ("scores.json", lambda data: data.replace(b'"method"', b'"methods"')),
        ("scores.json", lambda data: data.replace(b'"format_version": 1', b'"format_version": 7')),
        ("scores.json", lambda data: data.replace(b'"num_q_heads": 4', b'"num_q_heads": 8')),
        ("scores.json", None),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, name: str, damage: object) -> None:
    rich_scores().save(tmp_path)
    path = tmp_path / name
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(HydraHeadError, match=r"scores\.(npz|json)") as caught:
        HeadScores.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_every_cut_of_the_arrays_is_noticed(tmp_path: Path) -> None:
    rich_scores().save(tmp_path)
    path = tmp_path / "scores.npz"
    data = path.read_bytes()
    for length in range(0, len(data), 97):
        path.write_bytes(data[:length])
        with pytest.raises(HydraHeadError):
            HeadScores.load(tmp_path)


def test_pickled_and_foreign_arrays_are_refused(tmp_path: Path) -> None:
    rich_scores().save(tmp_path)
    path = tmp_path / "scores.npz"
    for arrays in (
        {"values": np.array([{"a": 1}] * 8, dtype=object).reshape(2, 4)},
        {"values": np.full((2, 4), "text")},
        {"other": np.ones((2, 4))},
        {"values": np.ones((2, 3))},
        {"values": np.full((2, 4), np.inf)},
    ):
        np.savez(path, allow_pickle=True, **arrays)
        with pytest.raises(HydraHeadError, match=r"scores\.npz"):
            HeadScores.load(tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(HydraHeadError, match="no such file"):
        HeadScores.load(tmp_path / "nowhere")


def test_random_scores_depend_on_the_seed_alone() -> None:
    first, again, other = (random_scores(MODEL, seed).values for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert ((first >= 0) & (first < 1)).all()


def test_spearman_by_hand() -> None:
    np.testing.assert_array_equal(average_ranks([10, 20, 20, 5]), [2, 3.5, 3.5, 1])
    assert spearman([1, 2, 3], [10, 40, 90]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # ranks 1 2 3 4 and 2 1 4 3: rho = 1 - 6 * 4 / (4 * 15)
    assert spearman([1, 2, 3, 4], [2, 1, 4, 3]) == pytest.approx(0.6)
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    assert spearman([], []) is None


def test_split_half_reliability_tells_signal_from_zeros_and_noise() -> None:
    generator = np.random.default_rng(0)
    signal = generator.random((4, 16))
    steady = np.stack([signal] * 6)
    assert split_half_reliability(steady).overall == pytest.approx(1)
    noise = generator.random((6, 4, 16))
    assert abs(split_half_reliability(noise).overall or 0) < 0.4
    # Noise in a few heads and zeros elsewhere looks reliable overall, and is not.
    sparse = noise.copy()
    sparse[:, :, 3:] = 0
    result = split_half_reliability(sparse)
    assert result.overall is not None
    assert result.non_zero is not None
    assert result.overall > 0.6
    assert result.non_zero < 0.4
    assert split_half_reliability(sparse) == result
    assert split_half_reliability(noise[:1]).overall is None
    assert split_half_reliability(np.zeros((4, 2, 2))).overall is None
    assert json.dumps(result.overall)
