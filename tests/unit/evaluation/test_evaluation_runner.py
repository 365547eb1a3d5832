"""The runner on models whose answers are known."""

import json

import pytest

from hydrahead.core.artefacts import read_record
from hydrahead.core.errors import HydraHeadError
from hydrahead.evaluation import LoadedModel, evaluate, read_results
from hydrahead.evaluation.journal import Journal
from hydrahead.tasks import build_task, codec_from_tokenizer


def run(models, out, quiet, **changes):
    settings = dict(tasks=["niah_single"], lengths=[256, 512], samples=10, seed=3, batch_size=4)
    return read_results(evaluate(models, out=out, progress=quiet, **{**settings, **changes}))


def test_perfect_and_wrong_models_score_one_and_nothing(perfect, wrong, tokenizer, tmp_path, quiet):
    models = [(perfect, tokenizer, "perfect"), LoadedModel(wrong, tokenizer, "wrong")]
    results = run(models, tmp_path / "e", quiet, tasks=["niah_single", "niah_multikey:keys=2"])
    assert results.model_names() == ("perfect", "wrong")
    for name, mean in (("perfect", 1.0), ("wrong", 0.0)):
        model = results.model(name)
        for task in results.settings.tasks:
            summary = model.summary(task)
            assert (summary.n, summary.mean) == (20, mean)
            assert model.summary(task, 512).n == 10
        assert [(c.task, c.length, c.depth) for c in model.cells] == [
            (task, length, depth)
            for task in ("niah_single", "niah_multikey:keys=2")
            for length in (256, 512)
            for depth in (0.0, 0.25, 0.5, 0.75, 1.0)
        ]
        assert all(cell.summary.n == len(cell.scores) == 2 for cell in model.cells)
    assert results.model("perfect").cells[0].example.generated.strip().isdigit()


def test_a_guessing_model_scores_in_between_with_its_error(guessing, tokenizer, tmp_path, quiet):
    results = run([(guessing, tokenizer, "g")], tmp_path / "e", quiet, lengths=[256], samples=100)
    summary = results.model("g").summary("niah_single")
    assert 0.3 < summary.mean < 0.7
    expected = (summary.mean * (1 - summary.mean) / 100) ** 0.5
    assert summary.standard_error == pytest.approx(expected)
    assert summary.low < 0.5 < summary.high


def test_a_models_own_settings_and_mode_are_put_back(perfect, tokenizer, tmp_path, quiet):
    perfect.train()
    before = perfect.generation_config
    run([(perfect, tokenizer, "p")], tmp_path / "e", quiet)
    assert perfect.generation_config is before
    assert before.temperature == 0.3
    assert perfect.training


def test_costs_come_from_the_plan_and_are_left_out_without_one(
    perfect, lookup, tokenizer, tmp_path, quiet
):
    from types import SimpleNamespace

    stranger = lookup(lambda right: right)
    stranger.config = SimpleNamespace(to_dict=lambda: {"model_type": "unheard_of"})
    results = run(
        [(perfect, tokenizer, "known"), (stranger, tokenizer, "stranger")], tmp_path / "e", quiet
    )
    known, stranger = results.model("known"), results.model("stranger")
    # 2 layers x 2 kv_heads x (key + value) x 8 wide x 2 bytes
    assert [(c.length, c.kv_bytes, c.state_bytes) for c in known.costs] == [
        (256, 256 * 128, 0),
        (512, 512 * 128, 0),
    ]
    assert known.full_fraction == 1.0
    assert known.num_parameters == 3
    assert (stranger.costs, stranger.full_fraction, stranger.plan) == ((), None, None)
    assert stranger.max_positions is None


def test_the_same_command_gives_the_same_file_and_reuses_it(perfect, tokenizer, tmp_path, quiet):
    for name in ("a", "b"):
        run([(perfect, tokenizer, "p")], tmp_path / name, quiet)
    first = (tmp_path / "a" / "results.json").read_bytes()
    assert (tmp_path / "b" / "results.json").read_bytes() == first
    before = len(perfect.batches)
    run([(perfect, tokenizer, "p")], tmp_path / "a", quiet)
    assert len(perfect.batches) == before
    record = read_record(tmp_path / "a")
    assert record.kind == "evaluation"
    assert record.seed == 3
    assert record.configuration["lengths"] == [256, 512]
    with pytest.raises(HydraHeadError, match="samples was 10, now 5"):
        run([(perfect, tokenizer, "p")], tmp_path / "a", quiet, samples=5)


def test_scores_do_not_depend_on_the_batch_size(guessing, tokenizer, lookup, tmp_path, quiet):
    def moody():  # right or wrong by the number itself, so that order cannot matter
        return lookup(lambda right: right if int(right) % 3 else "11111")

    one = run([(moody(), tokenizer, "m")], tmp_path / "a", quiet, batch_size=1)
    other = run([(moody(), tokenizer, "m")], tmp_path / "b", quiet, batch_size=7)
    assert one.models == other.models
    assert 0 < one.model("m").summary("niah_single").mean < 1


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_a_killed_run_goes_on_where_it_was(lookup, tokenizer, tmp_path, quiet):
    def answer(right):
        return right if int(right) % 2 else "11111"

    whole = run([(lookup(answer), tokenizer, "m")], tmp_path / "whole", quiet)
    calls = 0

    def mortal(right):
        nonlocal calls
        calls += 1
        if calls > 9:
            raise Killed
        return answer(right)

    with pytest.raises(Killed):
        run([(lookup(mortal), tokenizer, "m")], tmp_path / "e", quiet)
    assert not (tmp_path / "e").exists()
    journal = tmp_path / "e.partial" / ".work" / "scratch" / "cells.jsonl"
    done = journal.read_text().splitlines()
    assert len(done) == 4  # of ten cells with two samples each
    with journal.open("a") as file:
        file.write('{"key": "[\\"m\\", \\"niah')  # and the kill cut a line short
    second = lookup(answer)
    resumed = run([(second, tokenizer, "m")], tmp_path / "e", quiet)
    assert resumed.models == whole.models
    assert sum(second.batches) == 20 - 8


def test_an_error_before_any_result_leaves_nothing(perfect, tokenizer, tmp_path, quiet):
    with pytest.raises(HydraHeadError, match="context of 4096 tokens"):
        run([(perfect, tokenizer, "p")], tmp_path / "e", quiet, lengths=[512, 8192])
    assert list(tmp_path.iterdir()) == []
    assert perfect.batches == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lengths": [256, 9000]}, "length 9000 is beyond .*4096.*lengths up to 4096"),
        ({"lengths": [20]}, "20 tokens are too few"),
        ({"lengths": []}, "lengths"),
        ({"lengths": [256, 256]}, "distinct"),
        ({"samples": 0}, "samples is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"depths": [0.5, 1.2]}, r"depth 1\.2"),
        ({"depths": [0.5, 0.5]}, "each once"),
        ({"depths": [0.1, 0.2, 0.3], "samples": 2}, "2 samples cannot be spread over 3 depths"),
        ({"tasks": ["niah_singel"]}, "did you mean 'niah_single'"),
        ({"tasks": None, "suite": "nia"}, "did you mean 'niah'"),
        ({"tasks": None}, "suite or tasks"),
        ({"suite": "niah"}, "suite or tasks"),
    ],
)
def test_wrong_requests_are_refused_before_any_work(
    changes, message, perfect, tokenizer, tmp_path, quiet
):
    with pytest.raises(HydraHeadError, match=message):
        run([(perfect, tokenizer, "p")], tmp_path / "e", quiet, **changes)
    assert perfect.batches == []
    assert list(tmp_path.iterdir()) == []


def test_models_need_names_of_their_own(perfect, tokenizer, tmp_path, quiet):
    with pytest.raises(HydraHeadError, match="'p' was given twice"):
        run([(perfect, tokenizer, "p")] * 2, tmp_path / "e", quiet)
    with pytest.raises(HydraHeadError, match="no model was given"):
        run([], tmp_path / "e", quiet)
    with pytest.raises(HydraHeadError, match="no such directory"):
        run([tmp_path / "missing"], tmp_path / "e", quiet)


def test_samples_are_spread_over_depths_and_tasks_without_depth_get_them_all(
    perfect, tokenizer, tmp_path, quiet
):
    results = run([(perfect, tokenizer, "p")], tmp_path / "e", quiet, lengths=[256], samples=12)
    assert [cell.summary.n for cell in results.model("p").cells] == [3, 3, 2, 2, 2]
    task = build_task("mqar")
    assert not task.has_depth
    codec = codec_from_tokenizer(tokenizer)
    sample = task.sample(codec, length=256, seed=0, index=0, depth=0.5)
    assert sample.depth is None


def test_journal_keeps_whole_lines_only(tmp_path):
    path = tmp_path / "j.jsonl"
    journal = Journal(path)
    journal.add({"a": 1}, "m", "task", 512, None)
    journal.add({"a": 2}, "m", "task", 512, 0.5)
    path.write_bytes(path.read_bytes()[:-3])
    again = Journal(path)
    assert again.get("m", "task", 512, None) == {"a": 1}
    assert again.get("m", "task", 512, 0.5) is None
    again.add({"a": 3}, "m", "task", 512, 0.5)
    assert [json.loads(line)["value"]["a"] for line in path.read_text().splitlines()] == [1, 3]
