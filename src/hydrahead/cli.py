"""The command line: verbs only; each is a few lines over the package.

Rooms are imported inside the verb that needs them, so that a typing error costs no import of torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from hydrahead.cli_frame import (
    MODEL,
    BatchSize,
    Device,
    Dtype,
    Force,
    Json,
    Out,
    Outcome,
    Seed,
    Settings,
    assignments,
    names,
    numbers,
    pick_device,
    run_app,
    verb,
)

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code: 0, 2 for a mistake, 130 for Ctrl-C."""
    raise SystemExit(run_app(app, arguments))


@app.callback(invoke_without_command=True)
def _start(
    context: typer.Context,
    version: Annotated[bool, Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Decide per attention head which mixer runs it.

    The path of a checkpoint: score, plan, convert, distill, evaluate, report. Each verb writes an
    artefact that the next one reads; an interrupted one goes on when the same command is given
    again. "hydrahead run" does all of it, "hydrahead demo" on a small bundled model.
    """
    if version:
        from hydrahead import __version__

        print(__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@verb(app)
def score(
    model: Annotated[str, Argument(help=f"The teacher: {MODEL}.")],
    out: Out,
    method: Annotated[
        str, Option(help="counterfactual, retrieval, substitution or random.")
    ] = "counterfactual",
    twins: Annotated[
        Path | None, Option(help="Aligned all-linear hybrid; for substitution.")
    ] = None,
    pairs: Annotated[int | None, Option(min=1, help="Samples per probe.")] = None,
    length: Annotated[int | None, Option(help="Tokens per sample.")] = None,
    settings: Settings = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 4,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
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
    scores: Annotated[Path, Argument(help="What score wrote.")],
    out: Annotated[Path, Option(help="The plan to write, for example plan.json.")],
    full_fraction: Annotated[
        float | None, Option(help="Share of the units that stay full attention, 0 to 1.")
    ] = None,
    kv_bytes: Annotated[
        str | None, Option(metavar="N@CONTEXT", help="Or a budget of bytes: 256M@128K.")
    ] = None,
    policy: Annotated[
        str, Option(help="global_top, constrained_top, per_layer_top or layerwise.")
    ] = "global_top",
    unit: Annotated[str, Option(help="What is given away: kv_head or q_head.")] = "kv_head",
    linear: Annotated[
        str, Option(help="Mixer of the rest, such as window:window=128,sinks=4.")
    ] = "gated_delta",
    preset: Annotated[str, Option(help="plain or paper.")] = "plain",
    min_per_layer: Annotated[
        int | None, Option(help="Full units per layer at least; for constrained_top.")
    ] = None,
    force: Force = False,
    json: Json = False,
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
    model: Annotated[str, Argument(help=f"The teacher: {MODEL}.")],
    plan: Annotated[Path, Argument(help="What plan wrote.")],
    out: Out,
    twins: Annotated[
        Path | None, Option(help="Aligned all-linear hybrid to take linear heads from.")
    ] = None,
    calibrate: Annotated[
        Path | None, Option(metavar="TEXT", help="Text file to set the fusion scalars on.")
    ] = None,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> Outcome:
    """Apply a plan to a checkpoint."""
    from hydrahead.cli_inspect import inspect_anything
    from hydrahead.transfer.convert import convert as convert_model

    convert_model(model, plan, out, twins=twins, calibrate=calibrate, force=force, seed=seed)
    return _written(out, inspect_anything(str(out)))


@verb(app)
def export(
    model: Annotated[Path, Argument(help="An all-full hybrid.")],
    out: Out,
    force: Force = False,
    json: Json = False,
) -> Outcome:
    """Turn an all-full hybrid back into a checkpoint of its family."""
    from hydrahead.transfer.export import export as export_model

    export_model(model, out, force=force)
    return _written(out)


@verb(app)
def distill(
    model: Annotated[Path, Argument(help="What convert or distill wrote.")],
    out: Out,
    teacher: Annotated[
        str | None, Option(metavar="MODEL", help="What it was converted from.")
    ] = None,
    data: Annotated[
        str, Option(metavar="SOURCE", help="builtin, a text file, folder, JSONL, or hf:NAME.")
    ] = "builtin",
    stages: Annotated[str, Option(help="Any of align,distill,extend.")] = "align,distill",
    align_target: Annotated[
        str, Option(help="output, or heads (for twins): where align compares.")
    ] = "output",
    length: Annotated[int | None, Option(min=1, help="Tokens per row, in every stage.")] = None,
    settings: Settings = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: Annotated[int | None, Option(min=1, help="Rows run at once.")] = None,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
) -> Outcome:
    """Repair a hybrid by learning from its teacher.

    Training settings of a stage are given as --set align.tokens=100000000 --set distill.lr=1e-4.
    """
    from hydrahead.core.jsonio import read_json, validate
    from hydrahead.transfer.distill import distill as distill_model
    from hydrahead.transfer.stage_base import DistillConfig

    everywhere = {"batch_size": batch_size, "length": length}
    shared = {name: value for name, value in everywhere.items() if value is not None}
    given = assignments(settings)
    config = {
        "device": pick_device(device),
        "dtype": dtype,
        "seed": seed,
        "align_target": align_target,
        **{name: value for name, value in given.items() if not isinstance(value, dict)},
        "train": {stage: shared for stage in names(stages)},
    }
    for stage, changes in given.items():
        if isinstance(changes, dict):
            config["train"][stage] = {**config["train"].get(stage, {}), **changes}
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


@verb(app)
def evaluate(
    models: Annotated[list[str], Argument(metavar="MODEL...", help=f"Each {MODEL}.")],
    out: Out,
    suite: Annotated[str | None, Option(help="Any of niah,ruler,mqar,general.")] = None,
    tasks: Annotated[str | None, Option(help="Or tasks: niah_single,niah_multikey:keys=2.")] = None,
    lengths: Annotated[str, Option(help="Tokens, prompt and answer together.")] = "1024,2048",
    samples: Annotated[int, Option(min=1, help="Per task and length.")] = 50,
    depths: Annotated[
        str | None, Option(help="Where answers lie, from 0 (start) to 1 (end).")
    ] = None,
    perplexity_text: Annotated[
        str | None, Option(metavar="SOURCE", help="Text for the loss by position: builtin, a file.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 8,
    seed: Seed = 0,
    force: Force = False,
    json: Json = False,
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
    artefacts: Annotated[
        list[Path], Argument(metavar="DIR...", help="Evaluations, scores, plans, hybrids.")
    ],
    out: Annotated[Path, Option(help="The page to write.")] = Path("report.html"),
    json: Json = False,
) -> Outcome:
    """Draw artefacts side by side on one self-contained page."""
    from hydrahead.evaluation import write_report

    write_report(artefacts, out)
    return _written(out)


@verb(app)
def generate(
    model: Annotated[str, Argument(help=f"{MODEL[0].upper()}{MODEL[1:]}.")],
    prompt: Annotated[str | None, Option(help="The text to go on from.")] = None,
    prompt_file: Annotated[Path | None, Option(help="Or a file that holds it.")] = None,
    chat: Annotated[bool, Option("--chat", help="Put it into the chat template.")] = False,
    max_new_tokens: Annotated[int, Option(min=1, help="Stop after so many.")] = 128,
    temperature: Annotated[float, Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    top_p: Annotated[float, Option(min=0, max=1, help="Sample from this much mass.")] = 1.0,
    allow_long: Annotated[
        bool, Option("--allow-long", help="Go beyond the model's context.")
    ] = False,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> Outcome:
    """Continue a prompt."""
    from dataclasses import asdict

    from hydrahead.cli_frame import read_prompt
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
    what: Annotated[str, Argument(metavar="ANY", help=f"Any artefact, or {MODEL}.")],
    json: Json = False,
) -> Outcome:
    """Draw a plan, scores, a model or an evaluation, with its cost."""
    from hydrahead.cli_inspect import inspect_anything

    return inspect_anything(what)


def _written(out: Path, outcome: Outcome | None = None) -> Outcome:
    """What was made, and where."""
    shown = outcome or Outcome(data={})
    return Outcome(data={"out": str(out), **shown.data}, lines=[*shown.lines, f"wrote {out}"])
