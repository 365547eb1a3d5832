"""The command line: verbs only; each is a few lines over the package.

Rooms are imported inside the verb that needs them, so that a typing error costs no import of torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from hydrahead import cli_options as option
from hydrahead.cli_allocate import allocate
from hydrahead.cli_frame import (
    Outcome,
    assignments,
    names,
    numbers,
    pick_device,
    read_prompt,
    run_app,
    verb,
)
from hydrahead.cli_keyphrases import keyphrases
from hydrahead.cli_surgery import add_verbs as add_surgery_verbs

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)
app.add_typer(keyphrases, name="keyphrases")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 2 for a mistake, 130 for Ctrl-C."""
    raise SystemExit(run_app(app, arguments))


def _print_version(asked: bool) -> bool:
    if asked:
        from hydrahead import __version__

        print(__version__)
        raise typer.Exit
    return asked


@app.callback()
def _start(
    version: Annotated[
        bool,
        Option("--version", callback=_print_version, is_eager=True, help="Print it and stop."),
    ] = False,
) -> None:
    """Decide per attention head which mixer runs it.

    The path of a checkpoint: score, plan, convert, distill, evaluate, report. Each verb writes an
    artefact that the next one reads; an interrupted one goes on when the same command is given
    again. "hydrahead run" does all of it, "hydrahead demo" on a small bundled model.
    """


@verb(app)
def score(
    model: option.TeacherModel,
    out: option.Out,
    method: option.Method = "counterfactual",
    twins: option.Twins = None,
    pairs: option.Pairs = None,
    length: option.Length = None,
    settings: option.Settings = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    batch_size: option.BatchSize = 4,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Find out how much every attention head matters."""
    from hydrahead.cli_inspect import inspect_anything
    from hydrahead.scoring.run import score as score_model

    given = {"twins": twins, "pairs": pairs, "length": length}
    chosen = {name: value for name, value in given.items() if value is not None}
    score_model(
        model,
        out=out,
        method=method,
        settings={**chosen, **assignments(settings)},
        seed=seed,
        batch_size=batch_size,
        device=pick_device(device),
        dtype=dtype,
        force=force,
    )
    return _written(out, inspect_anything(str(out)))


@verb(app)
def plan(
    scores: option.ScoresDir,
    out: option.PlanOut,
    full_fraction: option.FullFraction = None,
    kv_bytes: option.KvBytes = None,
    policy: option.Policy = "global_top",
    unit: option.UnitName = "kv_head",
    linear: option.Linear = "gated_delta",
    preset: option.Preset = "plain",
    min_per_layer: option.MinPerLayer = None,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Choose the heads that keep full attention, within a budget."""
    from hydrahead.cli_inspect import plan_outcome
    from hydrahead.core.errors import unknown_name
    from hydrahead.plan import HeadScores, make_plan, write_plan
    from hydrahead.plan.budget import parse_kv_bytes

    units: dict[str, Any] = {"kv_head": "kv_head", "q_head": "q_head"}
    if unit not in units:
        raise unknown_name("unit", unit, units)
    planned = make_plan(
        HeadScores.load(scores),
        full_fraction=full_fraction,
        kv_bytes=None if kv_bytes is None else parse_kv_bytes(kv_bytes),
        policy=policy,
        unit=units[unit],
        linear=linear,
        preset=preset,
        min_per_layer=min_per_layer,
    )
    write_plan(
        out,
        planned.plan,
        configuration=planned.configuration,
        report=planned.report,
        parents={"scores": scores},
        force=force,
    )
    drawn = plan_outcome(planned.plan)
    both = Outcome(
        data={**drawn.data, "report": planned.report},
        lines=[*drawn.lines, "", *planned.lines()],
    )
    return _written(out, both)


@verb(app)
def convert(
    model: option.TeacherModel,
    plan: option.PlanFile,
    out: option.Out,
    twins: option.TwinsForConvert = None,
    calibrate: option.Calibrate = None,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Apply a plan to a checkpoint."""
    from hydrahead.cli_inspect import inspect_anything
    from hydrahead.transfer.convert import convert as convert_model

    convert_model(model, plan, out, twins=twins, calibrate=calibrate, force=force, seed=seed)
    return _written(out, inspect_anything(str(out)))


@verb(app)
def export(
    model: option.FullHybrid,
    out: option.Out,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Turn an all-full hybrid back into a checkpoint of its family."""
    from hydrahead.transfer.export import export as export_model

    export_model(model, out, force=force)
    return _written(out)


@verb(app)
def distill(
    model: option.Hybrid,
    out: option.Out,
    teacher: option.Teacher = None,
    data: option.Data = "builtin",
    stages: option.Stages = "align,distill",
    align_target: option.AlignTarget = "output",
    length: option.RowLength = None,
    settings: option.Settings = None,
    device: option.Device = "auto",
    dtype: option.TrainDtype = "float32",
    batch_size: option.RowBatch = None,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Repair a hybrid by learning from its teacher.

    Training settings of a stage are given as --set align.tokens=100000000 --set distill.lr=1e-4.
    """
    from hydrahead.core.errors import HydraHeadError
    from hydrahead.core.jsonio import read_json, validate
    from hydrahead.training.config import TrainConfig
    from hydrahead.transfer.distill import distill as distill_model
    from hydrahead.transfer.stage_base import DistillConfig

    everywhere = {"batch_size": batch_size, "length": length}
    shared = {name: value for name, value in everywhere.items() if value is not None}
    given = assignments(settings)
    for name in given.keys() & (
        TrainConfig.model_fields.keys() - DistillConfig.model_fields.keys()
    ):
        mend = f"name the stage, for example --set distill.{name}=..."
        raise HydraHeadError(f"{name!r} is a setting of a stage", where="--set", mend=mend)
    by_stage = {name: value for name, value in given.items() if isinstance(value, dict)}
    config = {
        **{name: value for name, value in given.items() if name not in by_stage},
        "device": pick_device(device),
        "dtype": dtype,
        "seed": seed,
        "align_target": align_target,
        "train": {
            stage: {**shared, **by_stage.get(stage, {})}
            for stage in dict.fromkeys([*names(stages), *by_stage])
        },
    }
    distill_model(
        model,
        teacher=teacher,
        data=data,
        out=out,
        stages=names(stages),
        config=validate(DistillConfig, config, where="settings"),
        force=force,
    )
    summary = read_json(out / "training" / "training.json")
    lines = [
        f"{stage['stage']}: {stage['steps']} steps, {stage['tokens']} tokens, "
        f"loss {stage['final_loss']:.4g}"
        for stage in summary["stages"]
    ]
    return _written(out, Outcome(data={"training": summary}, lines=lines))


verb(app)(allocate)
add_surgery_verbs(app)


@verb(app)
def evaluate(
    models: option.Models,
    out: option.Out,
    suite: option.Suite = None,
    tasks: option.Tasks = None,
    lengths: option.Lengths = "1024,2048",
    samples: option.Samples = 50,
    depths: option.Depths = None,
    perplexity_text: option.PerplexityText = None,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    batch_size: option.BatchSize = 8,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Ask one or several models the same generated questions.

    Without --suite and --tasks the suite is niah.
    """
    from hydrahead.cli_inspect import evaluation_outcome
    from hydrahead.evaluation.runner import evaluate as evaluate_models
    from hydrahead.tasks.table import split_names

    default = "niah" if tasks is None else None
    evaluate_models(
        models,
        suite=names(suite or default or "") or None,
        tasks=None if tasks is None else split_names(tasks),
        lengths=numbers(lengths, int, option="--lengths"),
        samples=samples,
        depths=None if depths is None else numbers(depths, float, option="--depths"),
        seed=seed,
        batch_size=batch_size,
        device=pick_device(device),
        dtype=dtype,
        out=out,
        force=force,
        perplexity_text=perplexity_text,
    )
    return _written(out, evaluation_outcome(out))


@verb(app)
def report(
    artefacts: option.Artefacts,
    out: option.ReportOut = Path("report.html"),
    json: option.Json = False,
) -> Outcome:
    """Draw artefacts side by side on one self-contained page."""
    from hydrahead.evaluation import write_report

    write_report(artefacts, out)
    return _written(out)


@verb(app)
def generate(
    model: option.AnyModel,
    prompt: option.Prompt = None,
    prompt_file: option.PromptFile = None,
    chat: option.Chat = False,
    max_new_tokens: option.MaxNewTokens = 128,
    temperature: option.Temperature = 0.0,
    top_p: option.TopP = 1.0,
    allow_long: option.AllowLong = False,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    seed: option.Seed = 0,
    json: option.Json = False,
) -> Outcome:
    """Continue a prompt."""
    from dataclasses import asdict

    from hydrahead.model.generation import generate_text

    result = generate_text(
        model,
        read_prompt(prompt, prompt_file),
        chat=chat,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        allow_long=allow_long,
        dtype=dtype,
        device=pick_device(device),
        on_text=None if json else lambda text: print(text, end="", flush=True),
    )
    return Outcome(data=asdict(result), lines=[""])


@verb(app)
def inspect(
    what: option.Anything,
    json: option.Json = False,
) -> Outcome:
    """Draw a plan, scores, a model or an evaluation, with its cost."""
    from hydrahead.cli_inspect import inspect_anything

    return inspect_anything(what)


@verb(app)
def run(
    recipe: option.Recipe,
    out: option.Out,
    settings: option.Settings = None,
    device: option.RecipeDevice = None,
    seed: option.RecipeSeed = None,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Do the whole path of a recipe, from scores to the report.

    A recipe's own settings are given as --set teacher=DIR --set data=SOURCE.
    """
    from hydrahead.recipes.table import build_recipe

    given = {"device": None if device is None else pick_device(device), "seed": seed}
    chosen = {name: value for name, value in given.items() if value is not None}
    made = build_recipe(recipe, {**assignments(settings), **chosen}).execute(out, force=force)
    return Outcome(data={"out": str(out), "made": str(made)}, lines=[f"wrote {made}"])


@verb(app)
def demo(
    out: option.Out,
    device: option.Device = "cpu",
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Do the whole path on the small bundled model, in minutes."""
    from hydrahead.pipeline.demo import summary_outcome
    from hydrahead.recipes.table import build_recipe

    settings = {"device": pick_device(device), "seed": seed}
    page = build_recipe("demo", settings).execute(out, force=force)
    data, lines = summary_outcome(out)
    return Outcome(
        data={"out": str(out), "report": str(page), **data}, lines=[*lines, f"wrote {page}"]
    )


def _written(out: Path, outcome: Outcome | None = None) -> Outcome:
    """What was made, and where."""
    shown = outcome or Outcome(data={})
    return Outcome(data={"out": str(out), **shown.data}, lines=[*shown.lines, f"wrote {out}"])


if __name__ == "__main__":
    main()
