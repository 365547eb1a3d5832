"""The command line: the path of a checkpoint, and one line for every mistake."""

import errno
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hydrahead
from command_line import Shell
from hydrahead.cli import app
from hydrahead.cli_frame import run_app
from hydrahead.core.errors import HydraHeadError
from tiny_teachers import save_teacher

VERBS = tuple(command.name or "" for command in app.registered_commands)


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("COLUMNS", "80")
    return Shell(capsys)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_teacher(tmp_path_factory.mktemp("teachers") / "tiny", "qwen3")


@pytest.fixture(scope="module")
def made(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scores, a plan and a hybrid made on the command line."""
    here = tmp_path_factory.mktemp("made")

    def run(*arguments: object) -> None:
        assert run_app(app, [str(argument) for argument in arguments]) == 0

    run("score", teacher, "--method", "random", "--out", here / "scores")
    run("plan", here / "scores", "--full-fraction", 0.5, "--out", here / "plan.json")
    run("convert", teacher, here / "plan.json", "--out", here / "hybrid")
    return here


def test_help_lists_every_verb_and_fits_80_columns(shell: Shell) -> None:
    out, _ = shell()
    assert " ".join(VERBS) == (
        "score plan convert export distill allocate restore-qk diagnose evaluate report generate "
        "inspect run demo"
    )
    for verb in VERBS:
        assert f"\n  {verb} " in out
        help_text, _ = shell(verb, "--help")
        assert "--json" in help_text
        assert max(map(len, help_text.splitlines())) <= 80


def test_every_verb_that_runs_a_model_has_the_same_options(shell: Shell) -> None:
    for verb in ("score", "distill", "allocate", "evaluate"):
        out, _ = shell(verb, "--help")
        for option in ("--device", "--dtype", "--batch-size", "--seed", "--force"):
            assert option in out, (verb, option)


@pytest.mark.parametrize(
    ("verb", "table"),
    [
        ("score", "hydrahead.scoring.table:SCORERS"),
        ("plan", "hydrahead.plan.policies:POLICIES"),
        ("plan", "hydrahead.plan.presets:PRESETS"),
        ("distill", "hydrahead.transfer.stages:STAGES"),
        ("allocate", "hydrahead.transfer.allocation.gates:GATES"),
        ("evaluate", "hydrahead.tasks.table:SUITES"),
        ("run", "hydrahead.recipes.table:RECIPES"),
    ],
)
def test_help_names_every_entry_of_the_tables(shell: Shell, verb: str, table: str) -> None:
    out, _ = shell(verb, "--help")
    module, _, name = table.partition(":")
    for entry in getattr(importlib.import_module(module), name):
        assert entry in out


def test_run_hands_settings_to_the_recipe(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []

    class FakeRun:
        def execute(self, out: Path, *, force: bool = False) -> Path:
            asked.append((out, force))
            return out / "report.html"

    def build(name: str, settings: dict[str, Any]) -> FakeRun:
        asked.append((name, settings))
        return FakeRun()

    monkeypatch.setattr("hydrahead.recipes.table.build_recipe", build)
    command = ["run", "demo", "--out", tmp_path / "r", "--set", "teacher=t", "--seed", 3, "--force"]
    assert shell.json(*command)["made"] == str(tmp_path / "r" / "report.html")
    assert asked == [("demo", {"teacher": "t", "seed": 3}), (tmp_path / "r", True)]


def test_version(shell: Shell) -> None:
    assert shell("--version")[0].strip() == "0.1.0"


def test_json_is_one_object_that_says_what_was_made(
    shell: Shell, teacher: Path, tmp_path: Path
) -> None:
    scored = shell.json("score", teacher, "--method", "random", "--out", tmp_path / "s")
    assert (scored["method"], scored["layers"], scored["q_heads"]) == ("random", 3, 4)
    planned = shell.json(
        "plan", tmp_path / "s", "--full-fraction", 0.5, "--out", tmp_path / "plan.json"
    )
    assert planned["full_fraction"] == 0.5
    assert planned["report"]["full_units"] == 3
    assert planned["costs"]["8192"]["kv_bytes"] > 0
    hybrid = shell.json("convert", teacher, tmp_path / "plan.json", "--out", tmp_path / "h")
    assert hybrid["out"] == str(tmp_path / "h")
    assert hybrid["plan"] == planned["plan"]
    assert hybrid["record"]["kind"] == "model"


def test_the_same_command_again_reuses_and_another_is_refused(
    shell: Shell, teacher: Path, made: Path
) -> None:
    before = (made / "scores" / "artifact.json").stat().st_mtime_ns
    shell("score", teacher, "--method", "random", "--out", made / "scores")
    assert (made / "scores" / "artifact.json").stat().st_mtime_ns == before
    line = shell.mistake(
        "score", teacher, "--method", "random", "--seed", 1, "--out", made / "scores"
    )
    assert "seed was 0, now 1" in line
    assert "--force" in line


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        ("scores", "random scores, 3 layers x 4 q_heads"),
        ("plan.json", "qwen3, 3 layers x 2 kv_heads, full_fraction 0.5"),
        ("hybrid", "qwen3, 3 layers x 2 kv_heads, full_fraction 0.5"),
    ],
)
def test_inspect_draws_anything(shell: Shell, made: Path, what: str, shown: str) -> None:
    out, _ = shell("inspect", made / what)
    assert shown in out
    assert "artefact of" in out
    assert max(map(len, out.splitlines())) <= 80
    assert shell.json("inspect", made / what)["record"]


def test_inspect_knows_a_checkpoint_that_is_no_artefact(shell: Shell, teacher: Path) -> None:
    assert shell.json("inspect", teacher)["full_fraction"] == 1.0


def test_generate_from_text_or_a_file(shell: Shell, made: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("w3 w4 w5")
    command = ["generate", made / "hybrid", "--max-new-tokens", 4]
    out, _ = shell(*command, "--prompt", "w3 w4 w5")
    result = shell.json(*command, "--prompt-file", tmp_path / "prompt.txt")
    assert result["text"].split() == out.split()
    assert result["prompt_tokens"] == 3
    assert "give either" in shell.mistake(*command)
    assert "give either" in shell.mistake(
        *command, "--prompt", "w3", "--prompt-file", tmp_path / "prompt.txt"
    )


def test_export_gives_back_what_an_all_full_plan_converted(
    shell: Shell, teacher: Path, made: Path, tmp_path: Path
) -> None:
    shell("plan", made / "scores", "--full-fraction", 1, "--out", tmp_path / "full.json")
    shell("convert", teacher, tmp_path / "full.json", "--out", tmp_path / "full")
    shell("export", tmp_path / "full", "--out", tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text())["model_type"] == "qwen3"
    assert "runs gated_delta" in shell.mistake("export", made / "hybrid", "--out", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_distill_takes_settings_per_stage(
    shell: Shell, teacher: Path, made: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 " * 200)
    command = ["distill", made / "hybrid", "--teacher", teacher, "--data", tmp_path / "text.txt"]
    settings = ["--length", 16, "--batch-size", 2, "--set", "align.accumulation=1"]
    repaired = shell.json(
        *command, *settings, "--stages", "align", "--set", "align.steps=2", "--out", tmp_path / "d"
    )
    assert [stage["stage"] for stage in repaired["training"]["stages"]] == ["align"]
    assert repaired["training"]["stages"][0]["tokens"] == 2 * 2 * 16
    line = shell.mistake(
        *command, "--stages", "align", "--set", "align.stpes=2", "--out", tmp_path / "e"
    )
    assert "did you mean 'steps'" in line
    assert not list(tmp_path.glob("e*"))


def test_allocate_gives_a_plan_and_scores(shell: Shell, teacher: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("w1 w2 w3 w4 w5 w6 w7 w8 " * 200)
    out = tmp_path / "allocation"
    made = shell.json(
        *("allocate", teacher, "--full-fraction", 0.5, "--pair", "full:window:window=4,sinks=0"),
        *("--scope", "layer", "--unit", "kv_head", "--data", tmp_path / "text.txt"),
        *("--steps", 2, "--length", 16, "--batch-size", 2, "--out", out),
    )
    assert made["full_fraction"] == made["allocation"]["target_full_fraction"] == 0.5
    told = shell("inspect", out)[0]
    assert "kv_heads keep full: full_fraction 0.5 asked, 0.5 in whole units" in told
    assert "allocation artefact" in told
    shell("convert", teacher, out / "plan.json", "--out", tmp_path / "hybrid")
    again = ("--full-fraction", 0.5, "--linear", "window:window=4,sinks=0")
    shell("plan", out, *again, "--policy", "per_layer_top", "--out", tmp_path / "again.json")
    plans = [shell.json("inspect", p)["plan"] for p in (out / "plan.json", tmp_path / "again.json")]
    assert plans[0] == plans[1]
    shell("report", out, "--out", tmp_path / "report.html")


def test_evaluate_and_report(shell: Shell, tmp_path: Path) -> None:
    teacher = Path(hydrahead.__file__).parent / "assets" / "small_teacher"
    result = shell.json(
        *("evaluate", teacher, "--tasks", "niah_single,niah_multikey:keys=2", "--lengths", "128"),
        *("--samples", 2, "--depths", "0.5", "--out", tmp_path / "evaluation"),
    )
    scores = result["models"]["small_teacher"]
    assert set(scores) == {"niah_single", "niah_multikey:keys=2"}
    assert scores["niah_single"]["n"] == 2
    shell("report", tmp_path / "evaluation", "--out", tmp_path / "report.html")
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert "niah_single" in shell("inspect", tmp_path / "evaluation")[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["scroe"], "Did you mean 'score'"),
        (["score"], "Missing argument 'MODEL' (see hydrahead score --help)"),
        (["score", "x"], "Missing option '--out'"),
        (["score", "x", "--otu", "y"], "No such option: --otu"),
        (
            ["plan", "s", "--out", "p", "--full-fraction", "half"],
            "Invalid value for '--full-fraction'",
        ),
        (["inspect", "nowhere"], "nowhere: no such file or directory"),
        (["inspect", "nowhere/plan.json"], "no such file or directory"),
        (["report", "nowhere"], "nowhere"),
        (["run", "dmeo", "--out", "x"], "did you mean 'demo'"),
        (["run", "demo", "--out", "x", "--set", "teachr=y"], "did you mean 'teacher'"),
    ],
)
def test_mistakes_in_the_command_are_one_line(
    shell: Shell, arguments: list[str], words: str
) -> None:
    assert words in shell.mistake(*arguments)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "no budget is given"),
        (["--full-fraction", "2"], "full_fraction is 2"),
        (["--kv-bytes", "256X@1"], "cannot read the budget"),
        (["--full-fraction", "0.5", "--unit", "kvhead"], "did you mean 'kv_head'"),
        (["--full-fraction", "0.5", "--policy", "globaltop"], "did you mean 'global_top'"),
        (["--full-fraction", "0.5", "--linear", "gated_detla"], "did you mean 'gated_delta'"),
        (["--kv-bytes", "1K@8K"], "too few"),
    ],
)
def test_wrong_plans_are_one_line_and_leave_nothing(
    shell: Shell, made: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    assert words in shell.mistake("plan", made / "scores", "--out", tmp_path / "p.json", *options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "retreival"], "did you mean 'retrieval'"),
        (["--method", "random", "--set", "seeed=1"], "unknown key 'seeed'"),
        (["--method", "random", "--set", "seed"], "cannot read 'seed'"),
        (["--method", "retrieval", "--device", "cuda:7"], "device cuda:7"),
        (["--method", "retrieval", "--dtype", "float31"], "did you mean 'float32'"),
    ],
)
def test_wrong_scores_are_one_line_and_leave_nothing(
    shell: Shell, teacher: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    assert words in shell.mistake("score", teacher, "--out", tmp_path / "s", *options)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_ours_is_never_replaced(
    shell: Shell, teacher: Path, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    command = ["score", teacher, "--method", "random", "--out", tmp_path, "--force"]
    assert "not a hydrahead artefact" in shell.mistake(*command)


@pytest.fixture
def failing_inspect(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `inspect` fail in a chosen way."""

    def arrange(error: BaseException) -> None:
        def fail(what: str) -> None:
            print("a library that talks")
            raise error

        monkeypatch.setattr("hydrahead.cli_inspect.inspect_anything", fail)

    return arrange


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (HydraHeadError("bad", where="here", mend="do\nthis"), "here: bad; do this"),
        (OSError(errno.ENOSPC, "No space left on device", "out"), "out: no space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "out"), "out: permission denied"),
        (MemoryError(), "out of memory"),
    ],
)
def test_expected_failures_are_one_line(
    shell: Shell,
    failing_inspect: Callable[[BaseException], None],
    error: BaseException,
    words: str,
) -> None:
    failing_inspect(error)
    out, err = shell("inspect", "x", "--json", code=2)
    assert out == ""
    assert err.splitlines()[-1].startswith("hydrahead: ")
    assert words in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (KeyboardInterrupt(), "hydrahead: interrupted"),
        (KeyboardInterrupt("stopped at step 7"), "hydrahead: interrupted; stopped at step 7"),
    ],
)
def test_ctrl_c_is_one_line(
    shell: Shell,
    failing_inspect: Callable[[BaseException], None],
    error: BaseException,
    line: str,
) -> None:
    failing_inspect(error)
    _, err = shell("inspect", "x", code=130)
    assert err.splitlines()[-1] == line


def test_ctrl_c_in_a_verb_that_makes_something_says_how_to_go_on(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(*arguments: object, **settings: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hydrahead.transfer.export.export", stop)
    _, err = shell("export", tmp_path, "--out", tmp_path / "out", code=130)
    assert err == "hydrahead: interrupted; the same command goes on where it stopped\n"


def test_a_bug_of_ours_is_not_dressed_up(
    shell: Shell, failing_inspect: Callable[[BaseException], None]
) -> None:
    failing_inspect(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        shell("inspect", "x")


def test_the_installed_command_exits_with_the_code(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hydrahead.cli", "inspect", "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "hydrahead: nowhere: no such file or directory; check the path\n"
