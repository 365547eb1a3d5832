"""Everything a user can get wrong on the command line: one line, exit code 2, nothing left behind.

Each entry of the tables names what is wrong, the command line, and words the one line must hold.
Paths in braces are those of `Inputs`; an entry with a `spoil` damages a copy of them first.
"""

import errno
import json
import os
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from command_line import Shell
from hydrahead.cli import app
from hydrahead.cli_frame import run_app
from hydrahead.recipes.demo import SMALL_TEACHER
from tiny_teachers import save_teacher

EMBEDDING = "model.embed_tokens.weight"
WEIGHT = "model.layers.1.self_attn.k_proj.weight"


def run(command: str, **paths: object) -> None:
    assert run_app(app, shlex.split(command.format(**paths))) == 0


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of everything, and some of it again for a model of another geometry."""
    here = tmp_path_factory.mktemp("made")
    for prefix, family, layers in (("", "qwen3", 3), ("other_", "llama", 2)):
        names = {n: here / (prefix + n) for n in ("teacher", "scores", "plan", "linear", "twins")}
        save_teacher(names["teacher"], family, num_hidden_layers=layers)
        run("score {teacher} --method random --out {scores}", **names)
        run("plan {scores} --full-fraction 0.5 --out {plan}", **names)
        run("plan {scores} --full-fraction 0 --out {linear}", **names)
        run("convert {teacher} {linear} --out {twins}", **names)
    run("convert {here}/teacher {here}/plan --out {here}/hybrid", here=here)
    (here / "empty").mkdir()
    (here / "empty.txt").write_text(" \n")
    (here / "texts").mkdir()
    (here / "texts" / "one.txt").write_text("w1 w2 w3 w4 " * 50)
    (here / "binary.txt").write_bytes(b"\x00\x01\x02" * 50)
    (here / "latin.txt").write_bytes("gr\u00fcn".encode("latin-1"))
    (here / "bad.jsonl").write_text('{"text": "fine"}\n{"txet": "not"}\n')
    return here


@pytest.fixture
def inputs(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of `made` that a test may spoil, as the working directory."""
    monkeypatch.setenv("COLUMNS", "80")
    shutil.copytree(made, tmp_path / "in")
    monkeypatch.chdir(tmp_path / "in")
    return tmp_path / "in"


@dataclass(frozen=True, slots=True)
class Mistake:
    """A command line that cannot work; OUT and SMALL stand for themselves."""

    command: str
    words: str
    spoil: Callable[[], object] | None = None


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[], None]:
    def spoil() -> None:
        file = Path("teacher/model.safetensors")
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})

    return spoil


def edit_json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[], None]:
    def spoil() -> None:
        data = json.loads(Path(name).read_text())
        change(data)
        Path(name).write_text(json.dumps(data))

    return spoil


def move(name: str, to: str) -> Callable[[], None]:
    return lambda: (Path(name).rename(to), None)[1]


def cut(name: str) -> Callable[[], None]:
    return lambda: (Path(name).write_bytes(Path(name).read_bytes()[:-100]), None)[1]


def scribble(name: str) -> Callable[[], None]:
    return lambda: (Path(name).write_bytes(b"\xff" * 64), None)[1]


def nan_in_the_last_shard() -> None:
    """What is read first is sound, what is read last is not."""
    tensors = load_file("teacher/model.safetensors")
    tensors["model.layers.2.mlp.down_proj.weight"][0, 0] = float("nan")
    shards: dict[str, dict[str, torch.Tensor]] = {"first": {}, "last": {}}
    for name, tensor in tensors.items():
        shards["last" if ".2." in name or name == "model.norm.weight" else "first"][name] = tensor
    for shard, content in shards.items():
        save_file(content, f"teacher/{shard}.safetensors", metadata={"format": "pt"})
    weight_map = {name: f"{s}.safetensors" for s, content in shards.items() for name in content}
    index = {"metadata": {}, "weight_map": weight_map}
    Path("teacher/model.safetensors.index.json").write_text(json.dumps(index))
    Path("teacher/model.safetensors").unlink()


def cut_vocabulary() -> None:
    """The embedding loses its last rows; the tokenizer goes on making their ids."""
    edit_weights(
        lambda t: t.update(
            {name: t[name][:3].clone() for name in t if name in (EMBEDDING, "lm_head.weight")}
        )
    )()
    edit_json("teacher/config.json", lambda c: c.update(vocab_size=3))()


def overflow() -> None:
    edit_weights(lambda t: [w.mul_(1e20) for name, w in t.items() if "mlp" in name])()


def empty_prompt_without_start() -> None:
    edit_json("teacher/tokenizer_config.json", lambda c: c.pop("bos_token"))()


OTHER_TOKENIZER = {
    verb: Mistake(command, "model's vocabulary has 3; use the tokenizer that", cut_vocabulary)
    for verb, command in {
        "generate": "generate teacher --prompt w3",
        "evaluate": "evaluate teacher --tasks niah_single --lengths 64 --samples 1 --out OUT",
        "loss by position": "evaluate teacher --tasks niah_single --lengths 64 --samples 1 "
        "--perplexity-text texts --out OUT",
        "allocate": "allocate teacher --full-fraction 0.5 --pair full:window:window=4 --length 32 "
        "--data texts --steps 1 --out OUT",
    }.items()
}

LAST_SHARD = {
    verb: Mistake(command, "last.safetensors: tensor 'model.layers.2.", nan_in_the_last_shard)
    for verb, command in {
        "score": "score teacher --method retrieval --length 32 --pairs 1 --out OUT",
        "convert": "convert teacher plan --out OUT",
        "distill": "distill hybrid --teacher teacher --length 32 --out OUT",
        "evaluate": "evaluate hybrid teacher --tasks niah_single --lengths 64 --samples 1 "
        "--out OUT",
        "generate": "generate teacher --prompt w3",
    }.items()
}
"""In `evaluate` the first model is sound, and has been asked everything by then."""

BAD_FILES = {
    "text for a size": Mistake(
        "generate teacher --prompt w3",
        "config.json: not a configuration that transformers can read",
        edit_json("teacher/config.json", lambda c: c.update(hidden_size="32")),
    ),
    "text for a token id": Mistake(
        "generate teacher --prompt w3",
        "generation_config.json: eos_token_id is 'end', not a token id",
        edit_json("teacher/generation_config.json", lambda c: c.update(eos_token_id="end")),
    ),
    "no weights": Mistake(
        "convert teacher plan --out OUT",
        "teacher: no weights",
        lambda: Path("teacher/model.safetensors").unlink(),
    ),
    "pickled weights only": Mistake(
        "convert teacher plan --out OUT",
        "pytorch_model.bin",
        move("teacher/model.safetensors", "teacher/pytorch_model.bin"),
    ),
    "truncated weights": Mistake(
        "score teacher --method retrieval --length 32 --pairs 1 --out OUT",
        "model.safetensors: truncated",
        cut("teacher/model.safetensors"),
    ),
    "damaged weights": Mistake(
        "generate teacher --prompt w3",
        "model.safetensors: damaged",
        scribble("teacher/model.safetensors"),
    ),
    "transposed weights": Mistake(
        "convert teacher plan --out OUT",
        f"{WEIGHT!r} has shape [32, 16]",
        edit_weights(lambda t: t.update({WEIGHT: t[WEIGHT].T.contiguous()})),
    ),
    "nan weights": Mistake(
        "convert teacher plan --out OUT",
        f"{WEIGHT!r} holds 128 NaN",
        edit_weights(lambda t: t[WEIGHT][:4].fill_(float("nan"))),
    ),
    "weights of a hybrid cut": Mistake(
        "distill hybrid --teacher teacher --length 16 --out OUT",
        "truncated",
        cut("hybrid/model.safetensors"),
    ),
    "unknown architecture": Mistake(
        "convert teacher plan --out OUT",
        "did you mean 'qwen3'?",
        edit_json("teacher/config.json", lambda c: c.update(model_type="qwen33")),
    ),
    "no config": Mistake(
        "inspect teacher", "teacher", lambda: Path("teacher/config.json").unlink()
    ),
    "damaged config": Mistake(
        "convert teacher plan --out OUT", "not valid JSON", cut("teacher/config.json")
    ),
    "no tokenizer to generate": Mistake(
        "generate hybrid --prompt w3", "hybrid: no tokenizer", move("hybrid/tokenizer.json", "t")
    ),
    "no tokenizer to score": Mistake(
        "score teacher --method retrieval --length 32 --out OUT",
        "teacher: no tokenizer",
        move("teacher/tokenizer.json", "t"),
    ),
    "no tokenizer to train": Mistake(
        "distill hybrid --teacher teacher --length 16 --out OUT",
        "hybrid: no tokenizer",
        move("hybrid/tokenizer.json", "t"),
    ),
    "no tokenizer to evaluate": Mistake(
        "evaluate hybrid --lengths 64 --out OUT",
        "hybrid: no tokenizer",
        move("hybrid/tokenizer.json", "t"),
    ),
    "unknown key in a plan": Mistake(
        "convert teacher plan --out OUT",
        "did you mean 'conv_size'?",
        edit_json("plan", lambda p: p["plan"]["specs"][0].update(conv_sise=3)),
    ),
    "unknown mixer in a plan": Mistake(
        "convert teacher plan --out OUT",
        "did you mean 'gated_delta'?",
        edit_json("plan", lambda p: p["plan"]["specs"][0].update(name="gated_detla")),
    ),
    "a plan cut short": Mistake("convert teacher plan --out OUT", "not valid JSON", cut("plan")),
    "scores cut short": Mistake(
        "plan scores --full-fraction 0.5 --out OUT",
        "scores.npz",
        cut("scores/scores.npz"),
    ),
    "weights that overflow, to generate": Mistake(
        "generate teacher --prompt w3", "predictions are not finite", overflow
    ),
    "weights that overflow, in float16": Mistake(
        "generate teacher --prompt w3 --dtype float16", "use bfloat16 or float32", overflow
    ),
    "weights that overflow, to evaluate": Mistake(
        "evaluate teacher --tasks mqar --lengths 160 --samples 1 --out OUT",
        "predictions are not finite",
        overflow,
    ),
    "weights that overflow, to score": Mistake(
        "score teacher --method retrieval --length 240 --pairs 1 --out OUT",
        "probes is not finite",
        overflow,
    ),
    "weights that overflow, to train": Mistake(
        "distill hybrid --teacher teacher --length 16 --out OUT", "not finite", overflow
    ),
    "an empty prompt": Mistake(
        "generate teacher --prompt ''", "the prompt is empty", empty_prompt_without_start
    ),
}

OTHER_MODELS = {
    "plan": Mistake("convert teacher other_plan --out OUT", "other_plan: the plan is for another"),
    "twins": Mistake(
        "convert teacher plan --twins other_twins --out OUT",
        "other_twins: the set of twins is for another model",
    ),
    "twins to score": Mistake(
        "score SMALL --method substitution --twins twins --length 256 --out OUT",
        "twins: the set of twins is for another model",
    ),
    "teacher": Mistake(
        "distill hybrid --teacher other_teacher --length 16 --out OUT", "for another model"
    ),
    "plan of scores": Mistake(
        "plan other_scores --full-fraction 0.5 --out plan", "exists and is another one"
    ),
    "hybrid as teacher": Mistake("score hybrid --method retrieval --out OUT", "is not a teacher"),
    "hybrid to convert": Mistake("convert hybrid plan --out OUT", "not a teacher"),
    "hybrid to export": Mistake("export hybrid --out OUT", "runs gated_delta"),
    "checkpoint to distill": Mistake(
        "distill teacher --teacher teacher --length 16 --out OUT", "every head is the teacher's own"
    ),
    "scores as a model": Mistake(
        "evaluate scores --lengths 64 --out OUT", "kind 'scores'; give a model directory"
    ),
    "model as scores": Mistake("plan teacher --full-fraction 0.5 --out OUT", "scores.json"),
    "hybrid as scores": Mistake(
        "plan hybrid --full-fraction 0.5 --out OUT", "kind 'model'; give what score or allocate"
    ),
    "plan as scores": Mistake(
        "plan plan --full-fraction 0.5 --out OUT", "kind 'plan'; give what score or allocate"
    ),
    "scores as a plan": Mistake("convert teacher scores --out OUT", "kind 'scores'; give a plan"),
    "same model twice": Mistake("evaluate hybrid hybrid --lengths 64 --out OUT", "given twice"),
}

NAMES = {
    "verb": Mistake("scroe", "Did you mean 'score'"),
    "option": Mistake("score teacher --otu OUT", "No such option"),
    "method": Mistake("score teacher --method retreival --out OUT", "did you mean 'retrieval'"),
    "setting of a method": Mistake(
        "score teacher --method retrieval --set pars=1 --out OUT", "did you mean 'pairs'"
    ),
    "method needs twins": Mistake("score teacher --method substitution --out OUT", "'twins'"),
    "settings of a stage that is not run": Mistake(
        "distill hybrid --teacher teacher --length 32 --set extend.steps=5 --out OUT",
        "stage 'extend', which is not run",
    ),
    "policy": Mistake(
        "plan scores --full-fraction 0.5 --policy per_layer_tip --out OUT",
        "did you mean 'per_layer_top'",
    ),
    "unit": Mistake(
        "plan scores --full-fraction 0.5 --unit qhead --out OUT", "did you mean 'q_head'"
    ),
    "preset": Mistake(
        "plan scores --full-fraction 0.5 --preset papr --out OUT", "did you mean 'paper'"
    ),
    "mixer": Mistake(
        "plan scores --full-fraction 0.5 --linear lightening --out OUT", "did you mean 'lightning'"
    ),
    "setting of a mixer": Mistake(
        "plan scores --full-fraction 0.5 --linear window:windw=8 --out OUT", "did you mean 'window'"
    ),
    "setting missing": Mistake(
        "plan scores --full-fraction 0.5 --linear window --out OUT", "'window' is missing"
    ),
    "stage": Mistake(
        "distill hybrid --teacher teacher --stages distil --out OUT", "did you mean 'distill'"
    ),
    "setting of a stage": Mistake(
        "distill hybrid --teacher teacher --set align.stpes=1 --out OUT", "did you mean 'steps'"
    ),
    "settings of a wrong stage": Mistake(
        "distill hybrid --teacher teacher --set algin.steps=1 --out OUT", "did you mean 'align'"
    ),
    "setting without a stage": Mistake(
        "distill hybrid --teacher teacher --set lr=1 --out OUT", "--set distill.lr="
    ),
    "stages out of order": Mistake(
        "distill hybrid --teacher teacher --stages distill,align --out OUT", "in the order"
    ),
    "mixer of a pair": Mistake(
        "allocate teacher --full-fraction 0.5 --pair full:windw --out OUT", "did you mean 'window'"
    ),
    "setting of a pair": Mistake(
        "allocate teacher --full-fraction 0.5 --pair full:window:windw=8 --out OUT",
        "did you mean 'window'",
    ),
    "scope": Mistake(
        "allocate teacher --full-fraction 0.5 --scope globl --length 64 --out OUT",
        "did you mean 'global'",
    ),
    "form of gates": Mistake(
        "allocate teacher --full-fraction 0.5 --gates hardconcrete --length 64 --out OUT",
        "did you mean 'hard_concrete'",
    ),
    "setting of gates": Mistake(
        "allocate teacher --full-fraction 0.5 --set gate_ler=1 --out OUT", "did you mean 'gate_lr'"
    ),
    "pair without its twins": Mistake(
        "allocate teacher --full-fraction 0.5 --pair full:gated_delta --length 64 --out OUT",
        "--twins DIR",
    ),
    "no teacher": Mistake("distill hybrid --out OUT", "needs the teacher"),
    "dtype": Mistake("generate teacher --prompt w3 --dtype float31", "did you mean 'float32'"),
    "device": Mistake("generate teacher --prompt w3 --device tpu", "device tpu"),
    "task": Mistake("evaluate SMALL --tasks niah_singel --out OUT", "did you mean 'niah_single'"),
    "setting of a task": Mistake(
        "evaluate SMALL --tasks niah_multikey:kyes=2 --out OUT", "did you mean 'keys'"
    ),
    "suite": Mistake("evaluate SMALL --suite rulr --out OUT", "did you mean 'ruler'"),
    "recipe": Mistake("run seven_to_on --out OUT", "did you mean 'seven_to_one'"),
    "setting of a recipe": Mistake("run demo --set teachr=x --out OUT", "did you mean 'teacher'"),
    "setting a recipe needs": Mistake("run small_teacher --out OUT", "--set text="),
    "path": Mistake("inspect hybird", "no such file or directory"),
    "path of a model": Mistake("convert techer plan --out OUT", "did you mean 'teacher'"),
    "path below a folder": Mistake("generate ./in/x --prompt w3", "no such directory"),
}

NUMBERS = {
    "no budget": Mistake("plan scores --out OUT", "no budget is given"),
    "two budgets": Mistake(
        "plan scores --full-fraction 0.5 --kv-bytes 1M@8K --out OUT", "two budgets"
    ),
    "share above 1": Mistake("plan scores --full-fraction 1.5 --out OUT", "full_fraction is 1.5"),
    "share below 0": Mistake("plan scores --full-fraction -1 --out OUT", "full_fraction is -1"),
    "share that is no number": Mistake("plan scores --full-fraction nan --out OUT", "is nan"),
    "share of gates above 1": Mistake(
        "allocate teacher --full-fraction 1.5 --length 64 --out OUT", "full_fraction is 1.5"
    ),
    "share of gates of all": Mistake(
        "allocate teacher --full-fraction 1 --length 64 --out OUT", "between 0 and 1"
    ),
    "share that rounds to nothing": Mistake(
        "allocate teacher --full-fraction 0.1 --scope layer --length 64 --out OUT",
        "rounds to 0 of 2 kv_heads of a layer",
    ),
    "window as long as a row": Mistake(
        "allocate teacher --full-fraction 0.5 --pair full:window:window=64 --length 64 --out OUT",
        "a training row of 64",
    ),
    "gates' rows longer than the model": Mistake(
        "allocate teacher --full-fraction 0.5 --length 512 --out OUT", "context of 256"
    ),
    "twins of another model for gates": Mistake(
        "allocate teacher --full-fraction 0.5 --pair full:gated_delta --length 64 "
        "--twins other_twins --out OUT",
        "for another model",
    ),
    "bytes without a context": Mistake("plan scores --kv-bytes 1M --out OUT", "256M@128K"),
    "bytes of an unknown size": Mistake("plan scores --kv-bytes 1Q@8K --out OUT", "256M@128K"),
    "bytes at no context": Mistake("plan scores --kv-bytes 1M@0 --out OUT", "256M@128K"),
    "too few bytes": Mistake("plan scores --kv-bytes 1K@8K --out OUT", "too few"),
    "more per layer than the budget": Mistake(
        "plan scores --full-fraction 0.25 --policy constrained_top --min-per-layer 1 --out OUT",
        "min_per_layer 1 takes 3",
    ),
    "minimum without its policy": Mistake(
        "plan scores --full-fraction 0.5 --min-per-layer 1 --out OUT", "use policy constrained_top"
    ),
    "probes longer than the model": Mistake(
        "score SMALL --method retrieval --length 4096 --out OUT", "context is 2048"
    ),
    "probes too short": Mistake(
        "score SMALL --method retrieval --length 20 --out OUT", "20 tokens are too few"
    ),
    "rows longer than the model": Mistake(
        "distill hybrid --teacher teacher --length 4096 --out OUT", "context of 256"
    ),
    "rows that fit no memory": Mistake(
        "distill hybrid --teacher teacher --length 256 --batch-size 100000000 --out OUT", "GiB"
    ),
    "questions longer than the model": Mistake(
        "evaluate SMALL --lengths 1024,4096 --out OUT", "context of 2048"
    ),
    "questions too short": Mistake(
        "evaluate SMALL --lengths 20 --out OUT", "20 tokens are too few"
    ),
    "no list of lengths": Mistake("evaluate SMALL --lengths long --out OUT", "--lengths: 'long'"),
    "depth outside": Mistake("evaluate SMALL --depths 2 --out OUT", "outside 0 ... 1"),
    "prompt longer than the model": Mistake(
        "generate teacher --prompt w3 --max-new-tokens 999", "--allow-long"
    ),
    "no prompt": Mistake("generate teacher", "give either --prompt or --prompt-file"),
    "learning rate": Mistake(
        "distill hybrid --teacher teacher --set align.lr=-1 --out OUT", "lr: Input should be"
    ),
}

DATA = {
    "missing": Mistake("nowhere.txt", "nowhere.txt: no such file"),
    "mistyped": Mistake("builtn", "did you mean 'builtin'"),
    "empty file": Mistake("empty.txt", "empty.txt"),
    "empty folder": Mistake("empty", "empty"),
    "binary": Mistake("binary.txt", "binary.txt: is binary"),
    "not UTF-8": Mistake("latin.txt", "latin.txt"),
    "wrong records": Mistake("bad.jsonl", "bad.jsonl"),
    "wrong setting": Mistake("builtin:recal=1", "did you mean 'recall'"),
    "wrong weight": Mistake("builtin*x", "'x' is not a weight"),
    "nothing": Mistake("''", "no data was named"),
}

PLACES = {
    "below a file": Mistake("score teacher --method random --out plan/x", "plan/x: cannot be writ"),
    "plan below a file": Mistake(
        "plan scores --full-fraction 0.5 --out plan/x", "plan/x: cannot be written"
    ),
    "page below a file": Mistake("report scores --out plan/x", "plan/x: cannot be written"),
    "a directory for a plan": Mistake(
        "plan scores --full-fraction 0.5 --out empty", "empty: is a directory"
    ),
    "a directory for a page": Mistake("report scores --out empty", "empty: is a directory"),
    "a page over a plan": Mistake("report scores --out plan", "plan: exists and is no HTML page"),
    "something of the user's": Mistake(
        "convert teacher plan --out ../in --force", "not a hydrahead artefact"
    ),
    "another kind": Mistake("score teacher --method random --out hybrid", 'kind was "model"'),
    "another seed": Mistake(
        "score teacher --method random --seed 1 --out scores", "seed was 0, now 1"
    ),
    "a run into an artefact": Mistake("run demo --out scores", "artefact of kind 'scores'"),
    "a run over a file": Mistake("run demo --out empty.txt", "empty.txt: is a file"),
    "inside the teacher": Mistake(
        "score teacher --method random --out teacher/scores", "a model directory that it would"
    ),
    "a plan inside the scores": Mistake(
        "plan scores --full-fraction 0.5 --out scores/plan.json", "an artefact that it would"
    ),
    "a page inside the scores": Mistake(
        "report scores --out scores/page.html", "an artefact that it would change"
    ),
    "inside the data": Mistake(
        "distill hybrid --teacher teacher --length 16 --data texts --out texts/out",
        "an input that it would change",
    ),
    "an empty directory to report": Mistake("report empty --out OUT", "empty: holds nothing"),
    "a missing directory to report": Mistake("report nowhere --out OUT", "nowhere: no such"),
    "no model to inspect": Mistake("inspect empty", "empty: is neither"),
    "a picture to inspect": Mistake("inspect scores/scores.png", "scores.png: is neither"),
}

RUNS = {
    "teacher": Mistake("--set teacher=nowhere", "nowhere: no such directory"),
    "unit": Mistake("--set unit=head", "unit: Input should be 'kv_head' or 'q_head'"),
    "preset": Mistake("--set preset=papr", "did you mean 'paper'"),
    "data": Mistake("--set data=nowhere", "nowhere: no such file"),
}

TABLES: dict[str, dict[str, Mistake]] = {
    "file": BAD_FILES,
    "NaN in the last shard": LAST_SHARD,
    "other tokenizer": OTHER_TOKENIZER,
    "other model": OTHER_MODELS,
    "name": NAMES,
    "number": NUMBERS,
    "place": PLACES,
    "data": {
        name: Mistake(
            f"distill hybrid --teacher teacher --length 32 --data {bad.command} --out OUT",
            bad.words,
        )
        for name, bad in DATA.items()
    },
    "run": {
        name: Mistake(
            f"run seven_to_one --set teacher=SMALL --device cpu {bad.command} --out OUT".replace(
                "--set teacher=SMALL", "" if "teacher=" in bad.command else "--set teacher=SMALL"
            ),
            bad.words,
        )
        for name, bad in RUNS.items()
    },
}
CASES = {f"{kind}: {name}": bad for kind, table in TABLES.items() for name, bad in table.items()}


def tree(directory: Path) -> dict[str, int]:
    """Every file and folder, and when it was last written."""
    return {str(path): path.stat().st_mtime_ns for path in directory.rglob("*")}


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_line_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], inputs: Path, name: str
) -> None:
    bad = CASES[name]
    if bad.spoil is not None:
        bad.spoil()
    before = tree(inputs.parent)
    out = inputs.parent / "deep" / "out"
    command = bad.command.replace("SMALL", str(SMALL_TEACHER)).replace("OUT", str(out))
    line = Shell(capsys).mistake(*shlex.split(command))
    assert bad.words in line
    assert "; " in line or " (see hydrahead" in line or "Input should be" in line, "no mend"
    assert len(line) < 400
    after = tree(inputs.parent)
    after |= {
        place: before[place] for place in before.keys() & after.keys() if Path(place).is_dir()
    }
    assert after == before


NEW = "distill hybrid --teacher teacher --length 16 --batch-size 1 --set align.steps=2"
FULL = {
    "score": f"score {SMALL_TEACHER} --method retrieval --pairs 1 --length 256 --out OUT",
    "plan": "plan scores --full-fraction 0.25 --out OUT",
    "convert": "convert teacher plan --out OUT",
    "distill": f"{NEW} --stages align --data text.txt --out OUT",
    "evaluate": f"evaluate {SMALL_TEACHER} --tasks niah_single --lengths 64 --samples 1 --out OUT",
    "report": "report scores plan.json --out OUT",
}


@pytest.mark.parametrize("verb", FULL)
def test_a_full_disk_is_one_line_and_the_same_command_goes_on(
    capsys: pytest.CaptureFixture[str],
    inputs: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    shutil.copy("plan", "plan.json")
    Path("text.txt").write_text("w3 w4 w5 w6 " * 500)
    out = inputs.parent / "out"
    command = shlex.split(FULL[verb].replace("OUT", str(out)))
    shell = Shell(capsys)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert f"{out}: no space left on the disk; free some space" in shell.mistake(*command)
    assert not out.exists()
    shell(*command)
    assert out.exists()
    assert not list(inputs.parent.glob("*.partial"))
