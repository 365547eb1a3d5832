"""The parts of scoring that need no model: readouts, copies, attention of rows, fusion, the log,
the picture."""

from pathlib import Path

import numpy as np
import pytest
import torch
from byte_teachers import byte_tokenizer
from torch.nn import functional

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.scoring.effects import Effects, fused_score
from hydrahead.scoring.fusion import capability_score, fuse, min_max
from hydrahead.scoring.heat_map import draw_heat_map
from hydrahead.scoring.pair_log import FILE_NAME, PairLog
from hydrahead.scoring.probes import ProbeSettings, draw_probes, probe_length
from hydrahead.scoring.readout import copied_tokens, readout_of, span_direction
from hydrahead.scoring.row_attention import copy_attention, row_outputs, row_weights, visible
from hydrahead.scoring.split_half import split_half
from hydrahead.tasks import Counterfactual, Sample, codec_from_tokenizer


def sample(
    prompt: list[int], answer: list[int], evidence: list[tuple[int, int]], **other
) -> Sample:
    return Sample(
        task="test",
        prompt_ids=tuple(prompt),
        answer_ids=tuple(answer),
        targets=(),
        evidence=tuple(evidence),
        length=99,
        depth=None,
        index=0,
        **other,
    )


def test_the_readout_reads_where_differing_answer_tokens_are_predicted() -> None:
    other = Counterfactual(prompt_ids=(1, 2, 9, 8, 5), answer_ids=(7, 9, 8, 6))
    pair = readout_of(
        sample([1, 2, 3, 4, 5], [7, 3, 4, 6], [(2, 4)], counterfactual=other), decay=0.9
    )
    assert pair.clean_ids == (1, 2, 3, 4, 5, 7, 3, 4)
    assert pair.corrupted_ids == (1, 2, 9, 8, 5, 7, 3, 4)  # the clean answer is forced here too
    assert pair.rows == (5, 6)  # token 7 and token 3, which predict 3 and 4
    assert (pair.right, pair.wrong) == ((3, 4), (9, 8))
    assert pair.weights == pytest.approx((1 / 1.9, 0.9 / 1.9))
    assert pair.first_change == 2


def test_the_span_direction_is_a_difference_of_logits() -> None:
    other = Counterfactual(prompt_ids=(1, 9, 8), answer_ids=(9, 8))
    pair = readout_of(sample([1, 3, 4], [3, 4], [], counterfactual=other), decay=0.5)
    unembedding, hidden = torch.randn(10, 6).double(), torch.randn(2, 6).double()
    logits = hidden @ unembedding.T
    wanted = (2 * (logits[0, 3] - logits[0, 9]) + (logits[1, 4] - logits[1, 8])) / 3
    found = (hidden * span_direction(pair, unembedding)).sum()
    assert float(found) == pytest.approx(float(wanted), rel=1e-12)


def test_copies_are_found_span_by_span_and_digit_by_digit() -> None:
    #           0  1  2  3  4  5  6  7  8
    prompt = [1, 50, 4, 8, 4, 60, 5, 6, 70]
    assert copied_tokens(sample(prompt, [4, 8, 4, 99, 5, 6], [(2, 5), (6, 8)])) == [
        (0, (2, 4)),
        (1, (3,)),
        (2, (2, 4)),
        (4, (6,)),
        (5, (7,)),
    ]
    assert copied_tokens(sample(prompt, [5, 6, 4, 8, 4], [(2, 5), (6, 8)])) == [
        (2, (2, 4)),
        (3, (3,)),
        (4, (2, 4)),
    ]
    assert copied_tokens(sample(prompt, [77], [(1, 2)])) == []


@pytest.mark.parametrize("reach", [None, 4])
def test_rows_attend_as_the_whole_sequence_does(reach: int | None) -> None:
    tokens, groups, size, width = 11, 2, 3, 8
    q = torch.randn(tokens, groups * size, width).double()
    k, v = torch.randn(2, tokens, groups, width).double()
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)
    mask = (distance >= 0) & (distance < (reach or tokens))
    wanted = functional.scaled_dot_product_attention(
        q.transpose(0, 1),
        k.transpose(0, 1).repeat_interleave(size, 0),
        v.transpose(0, 1).repeat_interleave(size, 0),
        attn_mask=mask,
    ).transpose(0, 1)
    rows = torch.tensor([3, 9, 10])
    seen = visible(rows, tokens, reach)
    assert torch.equal(seen, mask[rows])
    weights = row_weights(q[rows], k, seen)
    values = v.repeat_interleave(size, 1)
    torch.testing.assert_close(torch.einsum("rhs,she->rhe", weights, values), wanted[rows])
    for head in range(groups * size):
        out = row_outputs(q[rows][None, :, head], k[:, head // size], v[:, head // size], seen)
        torch.testing.assert_close(out[0], wanted[rows, head])


def test_hits_and_mass_of_a_copy() -> None:
    keys = torch.zeros(5, 1, 4)
    keys[1, 0, 0] = keys[3, 0, 1] = 20.0
    queries = torch.zeros(2, 3, 4)
    queries[:, 0, 0] = queries[:, 1, 1] = 20.0
    mass, hits = copy_attention(
        queries, keys, None, torch.tensor([2, 4]), [(0, (1,)), (1, (3,)), (1, (1, 3))]
    )
    assert hits.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0]]  # an even spread is no hit
    np.testing.assert_allclose(mass[:, 0], [1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(mass[:, 2], [1 / 3, 1 / 5, 2 / 5], atol=1e-6)


def test_scores_are_the_stronger_role_times_consistency() -> None:
    receiver = np.array([[[0.5, 0.0]], [[0.7, 0.004]]])
    sender = np.array([[[0.1, 0.3]], [[0.2, 0.005]]])
    score, kappa = capability_score(receiver, sender, threshold=0.01)
    np.testing.assert_allclose(kappa, [[1.0, 0.5]])
    np.testing.assert_allclose(score, [[0.6, 0.1525 * 0.5]])


def test_capabilities_are_brought_to_one_scale() -> None:
    first, second = np.array([[0.0, 0.1, 0.2]]), np.array([[30.0, 10.0, 20.0]])
    np.testing.assert_allclose(fuse({"a": first, "b": second}), [[0.5, 0.25, 0.75]])
    np.testing.assert_allclose(min_max(np.full((2, 2), 3.0)), np.zeros((2, 2)))
    values, kappa = fused_score(
        {"a": ("p",), "b": ("q",)},
        {"p": first, "q": second},
        {"p": 0 * first, "q": 0 * first},
        0.05,
    )
    np.testing.assert_allclose(values, [[0.5, 0.25, 0.75]])
    assert kappa.tolist() == [[[0, 1, 1]], [[1, 1, 1]]]


def test_effects_average_pairs_before_sub_probes() -> None:
    log = PairLog()
    for probe, values in {"a": [1.0, 3.0], "b": [8.0]}.items():
        for number, value in enumerate(values):
            log.put(("phase", probe, number), {"effect": np.full((1, 2), value)})
    effects = Effects(log, (1, 2))
    assert effects.over("phase", {"a": [0, 1], "b": [0]}).tolist() == [[5.0, 5.0]]
    assert effects.over("phase", {"a": [1]}).tolist() == [[3.0, 3.0]]
    role = effects.role({"a": "phase", "b": None}, {"a": [0], "b": [0]})
    assert role.tolist() == [[[1.0, 1.0]], [[0.0, 0.0]]]


def test_halves_are_scored_from_all_pairs_once() -> None:
    seen: list[list[list[int]]] = []

    def score(selection: list[list[int]]) -> np.ndarray:
        seen.append([sorted(group) for group in selection])
        return np.array([[float(len(group)) for group in selection], [0.0] * len(selection)])

    split_half([[0, 1, 2], [5, 6, 7], [4]], score, seed=3)
    whole, *halves = seen
    assert whole == [[0, 1, 2], [5, 6, 7], [4]]
    for first, second in zip(halves[::2], halves[1::2], strict=True):
        assert sorted(first[0] + second[0]) == [0, 1, 2]
        assert sorted(first[1] + second[1]) == [5, 6, 7]
        assert len(first[0]) + len(first[1]) == 3
        assert first[2] == second[2] == [4]
    again: list = []
    split_half([[0, 1, 2]], lambda chosen: again.append(chosen) or np.arange(3.0), seed=3)
    repeat: list = []
    split_half([[0, 1, 2]], lambda chosen: repeat.append(chosen) or np.arange(3.0), seed=3)
    assert again == repeat
    assert split_half([[0], [1]], score, seed=0).overall is None


def test_reliability_is_high_for_stable_and_low_for_random_effects() -> None:
    generator = np.random.default_rng(0)
    ranking = generator.random((4, 8))
    stable = ranking + 0.01 * generator.random((10, 4, 8))
    noise = generator.random((10, 4, 8))
    for effects, low, high in ((stable, 0.95, 1.0), (noise, -0.4, 0.4)):
        result = split_half([list(range(10))], lambda half, e=effects: e[half[0]].mean(0), seed=0)
        assert low <= result.overall <= high


def test_the_log_keeps_results_exactly_and_drops_a_torn_line(tmp_path: Path) -> None:
    log = PairLog(tmp_path)
    values = np.random.default_rng(0).random((3, 4)) ** 9
    log.put(("a", "p", 1), {"effect": values, "clean": 0.1 + 0.2})
    log.put(("a", "p", 0), {"effect": values * 2, "mass": None})
    with (tmp_path / FILE_NAME).open("a") as file:
        file.write('{"phase":"a","probe":"p","pair":2,"result":{"eff')

    again = PairLog(tmp_path)
    assert len(again) == 2
    assert np.array_equal(again.array(("a", "p", 1), "effect"), values)
    assert again["a", "p", 1]["clean"] == 0.1 + 0.2
    assert again.missing("a", [("p", 0), ("p", 1), ("p", 2)]) == [("p", 2)]
    again.put(("a", "p", 2), {"effect": values})
    assert len(PairLog(tmp_path)) == 3

    (tmp_path / "final").mkdir()
    again.save(tmp_path / "final")
    lines = (tmp_path / "final" / FILE_NAME).read_text().splitlines()
    assert ['"pair":0' in lines[0], '"pair":1' in lines[1], '"pair":2' in lines[2]] == [True] * 3
    with pytest.raises(HydraHeadError, match="of the p probes is not finite"):
        again.put(("a", "p", 3), {"effect": np.array([1.0, np.nan])})
    again.discard()
    assert len(PairLog(tmp_path)) == 0
    assert not (tmp_path / FILE_NAME).exists()


def test_the_heat_map_is_a_picture_and_the_same_each_time(tmp_path: Path) -> None:
    values = np.zeros((4, 6))
    draw_heat_map(values, tmp_path / "flat.png", title="all zero", group_size=2)
    values[1, 2] = 1.0
    for name in ("a.png", "b.png"):
        draw_heat_map(values, tmp_path / name, title="scores", group_size=3)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "flat.png").read_bytes()


def test_the_default_length_follows_the_model() -> None:
    assert probe_length(None, 512) == 512
    assert probe_length(None, 40960) == 4096
    assert probe_length(8192, 40960) == 8192
    with pytest.raises(HydraHeadError, match="8192 tokens long, the model's context is 4096"):
        probe_length(8192, 4096)


def test_samples_fit_and_repeat_for_a_seed() -> None:
    geometry = ModelGeometry(
        family="llama",
        num_layers=1,
        num_q_heads=1,
        num_kv_heads=1,
        head_dim=8,
        hidden_size=8,
        intermediate_size=8,
        vocab_size=260,
        max_positions=240,
        layer_windows=(None,),
        tie_word_embeddings=False,
    )
    settings = ProbeSettings(probes={"retrieval": ("niah_single:digits=3",)}, pairs=3)
    codec = codec_from_tokenizer(byte_tokenizer())
    drawn = [draw_probes(settings, codec, geometry, seed=seed, paired=True) for seed in (0, 0, 1)]
    assert drawn[0].samples == drawn[1].samples != drawn[2].samples
    assert len(set(drawn[0].samples["niah_single:digits=3"])) == 3
    for each in drawn[0].samples["niah_single:digits=3"]:
        assert len(each.prompt_ids) + len(each.answer_ids) <= 240
        assert len(copied_tokens(each)) == len(each.answer_ids)
