"""Ctrl-C and a kill in every verb that takes long: no artefact, and the same command goes on.

What the same command makes in the end is, byte for byte, what it makes undisturbed.
"""

import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from command_line import Shell
from command_process import RECIPES, interrupt
from hydrahead.cli import app
from hydrahead.cli_frame import run_app
from hydrahead.recipes.demo import SMALL_TEACHER
from tiny_teachers import tiny_config, tiny_model

INTERRUPTED = 130
SIZES = {"vocab_size": 3072, "max_position_embeddings": 256}
TRAINING = " ".join(
    f"--set {stage}.{setting}"
    for stage in ("align", "distill", "extend")
    for setting in ("steps=4", "accumulation=1", "checkpoint_every=2", "log_every=1")
)
COMMANDS = {
    "score": "score teacher --method retrieval --set min_recall=0 --pairs 2 --length 160 "
    "--batch-size 1 --out OUT",
    "convert": "convert teacher plan.json --out OUT",
    "distill": "distill hybrid --teacher teacher --stages align,distill,extend --length 32 "
    f"--batch-size 2 {TRAINING} --out OUT",
    "allocate": "allocate teacher --full-fraction 0.5 --pair full:window:window=4 --length 32 "
    "--steps 4 --batch-size 2 --set checkpoint_every=1 --train-weights --out OUT",
    "evaluate": "evaluate teacher hybrid --tasks niah_single --lengths 96,128 --samples 5 "
    "--perplexity-text builtin --out OUT",
    "run": "run short --set teacher=teacher --out OUT",
}
SCRATCH = "OUT.partial/.work/scratch"
MOMENTS = {
    "score": (f"{SCRATCH}/pairs.jsonl", 2),
    "convert": ("OUT.partial/model*", 2),
    "align": (f"{SCRATCH}/align/checkpoints/step-*2", 1),
    "distill": (f"{SCRATCH}/distill/checkpoints/step-*2", 1),
    "distill, its first checkpoint half written": (f"{SCRATCH}/distill/checkpoints/*.tmp", 2),
    "extend": (f"{SCRATCH}/extend/checkpoints/step-*2", 1),
    "allocate": (f"{SCRATCH}/checkpoints/step-*2", 1),
    "evaluate": (f"{SCRATCH}/cells.jsonl", 3),
    "run, score": ("OUT/scores.partial/.work/identity.json", 1),
    "run, repair": ("OUT/model.partial/.work/scratch/distill/checkpoints/step-*2", 1),
    "run, evaluate": ("OUT/evaluation.partial/.work/scratch/cells.jsonl", 2),
}
VERBS = {"align": "distill", "extend": "distill"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny teacher, a plan for it and a hybrid."""
    here = tmp_path_factory.mktemp("bench")
    tiny_model(tiny_config("qwen3", **SIZES)).save_pretrained(here / "teacher")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SMALL_TEACHER / file, here / "teacher")
    for command in (
        f"score {here}/teacher --method random --out {here}/scores",
        f"plan {here}/scores --full-fraction 0.5 --out {here}/plan.json",
        f"convert {here}/teacher {here}/plan.json --out {here}/hybrid",
    ):
        assert run_app(app, command.split()) == 0
    return here


@pytest.fixture
def at_bench(bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bench)
    monkeypatch.setattr("hydrahead.recipes.table.RECIPES", RECIPES)


@pytest.fixture(scope="module")
def undisturbed(bench: Path) -> Callable[[str], dict[str, bytes]]:
    """What each command makes when nothing happens to it."""
    known: dict[str, dict[str, bytes]] = {}

    def make(verb: str) -> dict[str, bytes]:
        if verb not in known:
            out = bench / f"undisturbed_{verb}"
            assert run_app(app, arguments(verb, out)) == 0
            known[verb] = payload(out)
        return known[verb]

    return make


def arguments(verb: str, out: Path) -> list[str]:
    return shlex.split(COMMANDS[verb].replace("OUT", str(out)))


def payload(out: Path) -> dict[str, bytes]:
    """Everything made, without what tells of the clock or of the place."""
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return {
        str(path.relative_to(out)): _content(path).replace(str(out).encode(), b"OUT")
        for path in files
        if path.name != "artifact.json" and path.suffix != ".html"
    }


def _content(path: Path) -> bytes:
    if path.suffix not in (".json", ".jsonl"):
        return path.read_bytes()
    text = path.read_text()
    values = text.splitlines() if path.suffix == ".jsonl" else [text]
    return json.dumps([_without_clock(json.loads(value)) for value in values]).encode()


def _without_clock(value: Any) -> Any:
    """A plan's record, a training rate, and the hash of a model with such rates in its log."""
    if isinstance(value, list):
        return [_without_clock(item) for item in value]
    if not isinstance(value, dict):
        return value
    clocks = ("artifact", "tokens_per_second", "fingerprint")
    return {key: _without_clock(item) for key, item in value.items() if key not in clocks}


def finished(out: Path) -> bool:
    return (out / "artifact.json").exists()


@pytest.mark.usefixtures("at_bench")
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_same_command_goes_on_and_ends_the_same(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    undisturbed: Callable[[str], dict[str, bytes]],
    moment: str,
    number: signal.Signals,
) -> None:
    stage = moment.split(",")[0]
    verb = VERBS.get(stage, stage)
    out = tmp_path / "out"
    pattern, count = MOMENTS[moment]
    once = Path(pattern.replace("OUT", str(out)))
    command = arguments(verb, out)

    ended = interrupt(command, number=number, once=once, count=count, folder=tmp_path)

    assert ended.code == (INTERRUPTED if number == signal.SIGINT else -number), ended.printed
    assert "Traceback" not in ended.printed
    assert ("hydrahead: interrupted; " in ended.printed) == (number == signal.SIGINT)
    assert not finished(out)
    shell = Shell(capsys)
    halves = list(tmp_path.rglob("*.partial"))
    assert halves
    for half in halves if verb == "run" else (out, *halves):
        shell("generate", half, "--prompt", "x", "--max-new-tokens", 1, code=2)
        shell("report", half, "--out", tmp_path / "page.html", code=2)
    shell(*command)
    assert not list(tmp_path.rglob("*.partial"))
    mine, expected = payload(out), undisturbed(verb)
    assert mine.keys() == expected.keys()
    assert [name for name in mine if mine[name] != expected[name]] == []


@pytest.mark.usefixtures("at_bench")
def test_ctrl_c_in_the_installed_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, bench: Path
) -> None:
    out = tmp_path / "out"
    long = shlex.split(COMMANDS["distill"].replace("OUT", str(out)).replace("steps=4", "steps=900"))
    command = [sys.executable, "-m", "hydrahead.cli", *long]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    saved = tmp_path / "out.partial/.work/scratch/align/checkpoints/step-00000002"
    while not saved.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, told
    assert printed == ""
    assert told.splitlines()[-1].endswith("of 900; the same command resumes")
    assert not out.exists()
    line = Shell(capsys).mistake(*arguments("distill", out))
    assert "half done by another command" in line
