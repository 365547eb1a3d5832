import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import training_fakes
from safetensors import SafetensorError
from training_fakes import CONFIG, CountedBatches, TinyLM, TinyObjective, at_call, run

from hydrahead.core.errors import HydraHeadError
from hydrahead.training import checkpoints
from hydrahead.training.checkpoints import list_checkpoints
from hydrahead.training.interrupts import TrainingInterrupted
from hydrahead.training.layers import recomputed_activations
from hydrahead.training.metrics import read_metrics

UNTIMED = ("step", "tokens", "lr", "grad_norm", "loss", "accuracy")


def stable(directory):
    """Metrics without the clock."""
    return [
        {key: line[key] for key in UNTIMED} for line in read_metrics(directory / "metrics.jsonl")
    ]


def same(left, right):
    pairs = zip(left.state_dict().items(), right.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for (_, a), b in pairs)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def straight(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    model, result = run(directory, dtype=request.param)
    return request.param, model, result, stable(directory)


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("call", [1, 2, 5, 7, 8, 13, 18])
def test_interrupted_anywhere_it_ends_with_the_same_bits(straight, tmp_path, call):
    dtype, model, result, metrics = straight
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before=at_call(call, interrupt), dtype=dtype)
    again, finished = run(tmp_path, dtype=dtype)
    assert same(model, again)
    assert stable(tmp_path) == metrics
    assert (finished.steps, finished.tokens) == (result.steps, result.tokens)
    assert finished.final_loss == result.final_loss


def test_killed_it_resumes_with_the_same_bits(straight, tmp_path):
    dtype, model, _, metrics = straight
    if dtype is not torch.float32:
        pytest.skip("one process is enough")
    root = Path(training_fakes.__file__).parents[3]
    process = subprocess.run(
        [sys.executable, training_fakes.__file__, str(tmp_path), "14"],
        env=os.environ | {"PYTHONPATH": str(root / "src")},
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert [p.name for p in list_checkpoints(tmp_path / "checkpoints")] == [
        "step-00000003",
        "step-00000006",
    ]
    again, _ = run(tmp_path, dtype=dtype)
    assert same(model, again)
    assert stable(tmp_path) == metrics


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(straight, tmp_path, number):
    dtype, model, _, metrics = straight
    stop = at_call(7, lambda: os.kill(os.getpid(), number))
    handler = signal.getsignal(number)
    with pytest.raises(TrainingInterrupted, match=r"step 4 of 9; the same command resumes"):
        run(tmp_path, before=stop, dtype=dtype)
    assert signal.getsignal(number) is handler
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000004"
    again, _ = run(tmp_path, dtype=dtype)
    assert same(model, again)
    assert stable(tmp_path) == metrics


def test_a_finished_run_only_hands_on_its_weights(straight, tmp_path):
    model, _ = run(tmp_path)
    again, _ = run(tmp_path, before=at_call(1, interrupt))
    assert same(model, again)
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 1


def test_lines_after_the_last_checkpoint_are_dropped(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before=at_call(11, interrupt))
    path = tmp_path / "metrics.jsonl"
    assert [line["step"] for line in read_metrics(path)] == [2, 4]
    with path.open("a") as file:
        file.write('{"step": 6, "los')
    run(tmp_path)
    assert [line["step"] for line in read_metrics(path)] == [2, 4, 6, 8, 9]


def test_accumulated_targets_weigh_alike(tmp_path):
    """Two micro-batches with different numbers of targets are one batch of both."""

    class Joined(CountedBatches):
        def make(self, index):
            pair = [CountedBatches().make(2 * index + i) for i in range(2)]
            self.next = index + 1
            fields = ("input_ids", "labels", "position_ids")
            return type(pair[0])(**{f: torch.cat([getattr(b, f) for b in pair]) for f in fields})

    def weights(accumulation, batches, directory):
        model = TinyLM().double()
        model.eval()
        for layer in model.layers:
            layer.dropout.p = 0.0
        changes = {"accumulation": accumulation, "clip": 0.5}
        training_fakes.train(
            model, TinyObjective(model), batches, CONFIG.model_copy(update=changes), directory
        )
        return model.state_dict()

    one = weights(1, Joined(), tmp_path / "one")
    two = weights(2, CountedBatches(), tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_before_the_weights_change(tmp_path, value):
    model = TinyLM()
    objective = TinyObjective(model)

    def poison():
        with torch.no_grad():
            model.head.weight[0, 0] = value

    objective.before = at_call(9, poison)
    with pytest.raises(HydraHeadError, match=r"at step 5\b"):
        training_fakes.train(model, objective, CountedBatches(), CONFIG, tmp_path)
    assert torch.isfinite(model.embed.weight).all()
    assert list_checkpoints(tmp_path / "checkpoints")[-1].name == "step-00000003"


def test_data_that_ends_is_named(tmp_path):
    with pytest.raises(HydraHeadError, match="the data ended at step 4 of 9"):
        run(tmp_path, limit=9)


@pytest.mark.parametrize(
    "damage",
    [
        lambda p: (p / "masters.safetensors").write_bytes(b"\x10"),
        lambda p: (p / "optimiser.safetensors").unlink(),
        lambda p: (p / "state.json").write_text('{"step": 3'),
        lambda p: (p / "masters.safetensors").write_bytes(
            (p / "masters.safetensors").read_bytes()[:-5]
        ),
    ],
)
def test_a_damaged_checkpoint_is_named(tmp_path, damage):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before=at_call(15, interrupt))
    newest = list_checkpoints(tmp_path / "checkpoints")[-1]
    damage(newest)
    with pytest.raises(HydraHeadError, match="checkpoint is damaged") as error:
        run(tmp_path)
    assert error.value.where == str(newest)
    assert "delete this directory" in str(error.value)


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before=at_call(9, interrupt))
    with pytest.raises(HydraHeadError, match=r"lr.*0\.01.*0\.5"):
        run(tmp_path, config=CONFIG.model_copy(update={"lr": 0.5}))


@pytest.mark.parametrize("file", ["masters", "optimiser", "random"])
def test_interrupted_while_saving_it_ends_with_the_same_bits(straight, tmp_path, monkeypatch, file):
    dtype, model, _, metrics = straight
    save = checkpoints.save_file

    def stop(tensors, path):
        if path.parent.name == "step-00000006.tmp" and path.stem == file:
            raise KeyboardInterrupt
        save(tensors, path)

    monkeypatch.setattr(checkpoints, "save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, dtype=dtype)
    monkeypatch.undo()
    again, _ = run(tmp_path, dtype=dtype)
    assert same(model, again)
    assert stable(tmp_path) == metrics


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    def full(tensors, path):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space left") as error:
        run(tmp_path)
    assert error.value.errno == errno.ENOSPC


def test_a_half_written_checkpoint_is_ignored(tmp_path, straight):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, before=at_call(9, interrupt))
    (tmp_path / "checkpoints" / "step-00000099.tmp").mkdir()
    _, result = run(tmp_path)
    assert result.steps == 9
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000009"]


def test_recomputed_activations_give_the_same_gradients():
    model = TinyLM().double().eval()
    ids = torch.arange(12).reshape(2, 6)

    def gradients():
        model.zero_grad()
        model(ids).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plain = gradients()
    with recomputed_activations(list(model.layers)):
        recomputed = gradients()
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
    assert all("forward" not in vars(layer) for layer in model.layers)


def test_metrics_are_json_lines_with_rates(tmp_path):
    run(tmp_path)
    line = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert line["step"] == 2
    assert line["tokens"] == 2 * CONFIG.tokens_per_step
    assert line["tokens_per_second"] > 0
