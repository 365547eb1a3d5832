import os
import signal
import subprocess
import sys
from pathlib import Path

import distill_cases
import pytest
import torch
from distill_cases import TRAIN, make_cases, repair
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import hydrahead  # noqa: F401
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json
from hydrahead.core.records import read_record
from hydrahead.model.loading import load_model
from hydrahead.model.shard_writer import ShardWriter
from hydrahead.training import loop, memory
from hydrahead.training.interrupts import TrainingInterrupted
from hydrahead.training.metrics import read_metrics
from hydrahead.transfer import distill as distill_module
from tiny_teachers import save_teacher


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    return make_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def repaired(cases):
    return repair(cases, cases / "repaired")


def weights(directory):
    return load_file(directory / "model.safetensors")


def same_weights(left, right):
    left, right = weights(left), weights(right)
    assert left.keys() == right.keys()
    return [name for name in left if not torch.equal(left[name], right[name])] == []


def losses(directory, stage, key="loss"):
    return [line[key] for line in read_metrics(directory / "training" / f"{stage}.jsonl")]


def test_both_stages_lower_their_loss(repaired):
    for stage in ("align", "distill"):
        values = losses(repaired, stage)
        assert len(values) == 3
        assert values[-1] < values[0]


def test_the_repaired_model_is_closer_to_the_teacher(cases, repaired):
    ids = torch.randint(3, 67, (4, 48))
    teacher = load_model(cases / "teacher")(ids).logits.log_softmax(-1)

    def distance(directory):
        logits = load_model(directory)(ids).logits.log_softmax(-1)
        return torch.nn.functional.kl_div(logits, teacher, log_target=True, reduction="batchmean")

    assert distance(repaired) < 0.9 * distance(cases / "half")


def test_it_is_written_in_the_format_it_was_read_in(cases, repaired):
    before, after = weights(cases / "half"), weights(repaired)
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {
        n: (t.shape, t.dtype) for n, t in after.items()
    }
    assert {p.name for p in repaired.iterdir()} - {"training"} == {
        p.name for p in (cases / "half").iterdir()
    }
    config = read_json(repaired / "config.json")
    assert config.pop("fusion_calibrated") is True
    original = read_json(cases / "half" / "config.json")
    assert original.pop("fusion_calibrated") is False
    assert config == original
    loaded = AutoModelForCausalLM.from_pretrained(repaired)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(loaded(ids).logits, load_model(repaired)(ids).logits)


def test_the_record_says_what_was_done(cases, repaired):
    record = read_record(repaired)
    assert record.kind == "model"
    assert set(record.parents) == {"hybrid", "teacher", "data"}
    assert record.configuration["stages_done"] == ["align", "distill"]
    assert record.configuration["settings"]["align"]["steps"] == 12
    assert record.backends["gated_delta"] == "reference"
    summary = read_json(repaired / "training" / "training.json")
    assert [s["stage"] for s in summary["stages"]] == ["align", "distill"]
    assert summary["calibration"]["num_heads"] == 6


def test_align_leaves_everything_else_alone(cases, tmp_path):
    out = repair(cases, tmp_path / "aligned", stages=("align",))
    before, after = weights(cases / "half"), weights(out)
    changed = {n for n in before if not torch.equal(before[n], after[n])}
    assert changed
    assert all(".mixers.1." in n or n.endswith("fusion.gamma") for n in changed)


def test_twins_align_head_by_head(cases, tmp_path):
    out = repair(
        cases, tmp_path / "twins", hybrid="linear", stages=("align",), align_target="heads"
    )
    values = losses(out, "align")
    assert values[-1] < values[0]


def test_extend_needs_no_teacher(cases, repaired, tmp_path):
    out = repair(cases, tmp_path / "long", hybrid=repaired.name, stages=("extend",), teacher=None)
    assert read_record(out).configuration["stages_done"] == ["align", "distill", "extend"]
    assert "teacher" not in read_record(out).parents
    with pytest.raises(HydraHeadError, match="went through stage 'distill' already"):
        repair(cases, tmp_path / "again", hybrid=repaired.name, stages=("align",))


@pytest.mark.parametrize(("stage", "step"), [("align", 3), ("align", 12), ("distill", 2)])
def test_interrupted_in_any_stage_it_ends_with_the_same_bits(
    cases, repaired, tmp_path, monkeypatch, stage, step
):
    out = tmp_path / "out"

    def stop(self, *args):
        if self._directory.name == stage and self.step == step - 1:
            raise KeyboardInterrupt
        return advance(self, *args)

    advance = loop._Run._advance
    monkeypatch.setattr(loop._Run, "_advance", stop)
    with pytest.raises(KeyboardInterrupt):
        repair(cases, out)
    assert not out.exists()
    monkeypatch.undo()
    repair(cases, out)
    assert same_weights(out, repaired)
    assert losses(out, stage) == losses(repaired, stage)


def test_killed_while_saving_it_ends_with_the_same_bits(cases, repaired, tmp_path):
    out = tmp_path / "out"
    tests = Path(distill_cases.__file__).parents[2]
    path = os.pathsep.join([str(tests.parent / "src"), str(tests)])
    process = subprocess.run(
        [sys.executable, distill_cases.__file__, str(cases), str(out), "distill"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        check=False,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not out.exists()
    repair(cases, out)
    assert same_weights(out, repaired)


@pytest.mark.parametrize("method", ["_flush", "close"])
def test_interrupted_while_writing_the_model_it_ends_with_the_same_bits(
    cases, repaired, tmp_path, monkeypatch, method
):
    out = tmp_path / "out"

    def stop(self, *args):
        result = original(self, *args)
        if "partial" in str(self.directory):
            raise KeyboardInterrupt
        return result

    original = getattr(ShardWriter, method)
    monkeypatch.setattr(ShardWriter, method, stop)
    with pytest.raises(KeyboardInterrupt):
        repair(cases, out)
    assert not out.exists()
    monkeypatch.undo()
    repair(cases, out)
    assert same_weights(out, repaired)
    assert {p.name for p in out.iterdir()} == {p.name for p in repaired.iterdir()}


def test_control_c_saves_and_says_how_to_go_on(cases, repaired, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def signalled(self, *args):
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return advance(self, *args)

    advance = loop._Run._advance
    monkeypatch.setattr(loop._Run, "_advance", signalled)
    with pytest.raises(TrainingInterrupted, match="same command resumes"):
        repair(cases, out)
    monkeypatch.undo()
    repair(cases, out)
    assert same_weights(out, repaired)


def test_a_finished_one_is_reused_and_another_is_refused(cases, repaired, monkeypatch):
    monkeypatch.setattr(distill_module, "load_model", None)  # nothing is loaded
    assert repair(cases, repaired) == repaired
    with pytest.raises(HydraHeadError, match=r"kl_weight was 1\.0, now 0\.5"):
        repair(cases, repaired, kl_weight=0.5)


def test_bfloat16_trains_narrow_weights_and_wide_gates(cases, tmp_path):
    out = repair(cases, tmp_path / "narrow", dtype="bfloat16")
    for stage in ("align", "distill"):
        values = losses(out, stage)
        assert values[-1] < values[0]
    before, after = weights(cases / "half"), weights(out)
    assert {n: t.dtype for n, t in before.items()} == {n: t.dtype for n, t in after.items()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "stage 'align' needs the teacher"),
        ({"data": "nowhere.txt"}, "no such file"),
        ({"train": {"align": {"length": 257}}}, "longer than the model's context of 256"),
        ({"train": {"align": {"stepps": 3}}}, "did you mean 'steps'"),
        ({"stages": ("align", "polish")}, "unknown stage 'polish'"),
        ({"hybrid": "teacher"}, "every head is the teacher's own"),
        ({"hybrid": "nowhere"}, "nowhere"),
    ],
)
def test_what_cannot_be_leaves_nothing_behind(cases, tmp_path, changes, message):
    with pytest.raises(HydraHeadError, match=message):
        repair(cases, tmp_path / "out", **changes)
    assert list(tmp_path.iterdir()) == []


def test_another_teacher_is_refused(cases, tmp_path):
    other = save_teacher(tmp_path / "other", "qwen3", hidden_size=16)
    with pytest.raises(HydraHeadError, match="hidden_size"):
        repair(cases, tmp_path / "out", teacher=other)
    tokenizer = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokenizer.replace('"w7"', '"other"'))
    with pytest.raises(HydraHeadError, match=r"tokenizer is another one.*'other'"):
        repair(cases, tmp_path / "out", teacher=other)
    assert [p.name for p in tmp_path.iterdir()] == ["other"]


def test_what_does_not_fit_is_refused_before_the_first_step(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1 << 12)
    with pytest.raises(HydraHeadError, match="GiB are free"):
        repair(cases, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_rate_that_diverges_is_named(cases, tmp_path):
    train = {"distill": TRAIN["distill"] | {"lr": 1e30, "clip": None, "min_lr": 1e30}}
    with pytest.raises(HydraHeadError, match=r"became (nan|inf) at step"):
        repair(cases, tmp_path / "out", stages=("distill",), train=train)
    assert not (tmp_path / "out").exists()
