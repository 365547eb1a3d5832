"""The verbs around QK-Restore: `restore-qk` and `diagnose`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from typer import Argument, Option

from hydrahead import cli_options as option
from hydrahead.cli_frame import Outcome, pick_device, verb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrahead.pipeline.diagnose import Diagnosis
    from hydrahead.transfer.surgery_report import UnitChange

Pre = Annotated[str, Argument(metavar="PRE", help="The checkpoint before fine-tuning.")]
Post = Annotated[str, Argument(metavar="POST", help="The one after it, or a LoRA adapter on PRE.")]
OutPlace = Annotated[Path, Argument(metavar="OUT", help="The checkpoint to make.")]
Layers = Annotated[
    str, Option(metavar="LIST", help="full, softmax, linear, all, or layers: 3,7,12-15.")
]
VariantName = Annotated[
    str, Option("--variant", metavar="NAME", help="qk, q, k, v, pro; then +norms, +bias.")
]
Lambda = Annotated[
    float | None, Option("--lambda", metavar="X", help="Of pro: how much weak keys resist.")
]
Alpha = Annotated[float, Option(metavar="X", help="Share of the change to take back.")]
Merge = Annotated[bool, Option("--merge", help="Write a whole checkpoint of an adapter.")]
Report = Annotated[bool, Option("--report", help="Print how far each W_Q and W_K has moved.")]
Task = Annotated[str, Option(metavar="NAME", help="What to recall: a task with a depth.")]
PromptLength = Annotated[
    int | None, Option("--length", metavar="N", min=1, help="Tokens per prompt.")
]
PerDistance = Annotated[int, Option("--samples", metavar="N", min=1, help="Per distance.")]


def add_verbs(app: typer.Typer) -> None:
    """Put both verbs into the command line."""
    verb(app, name="restore-qk")(restore_qk)
    verb(app)(diagnose)


def restore_qk(
    pre: Pre,
    post: Post,
    out: OutPlace,
    layers: Layers = "full",
    variant: VariantName = "qk",
    lambda_: Lambda = None,
    alpha: Alpha = 1.0,
    merge: Merge = False,
    report: Report = False,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Take queries and keys back from before fine-tuning.

    Recall over long distances, which fine-tuning on short chains of thought can break, often comes
    back. Nothing is trained.
    """
    from hydrahead.core.jsonio import read_json
    from hydrahead.transfer.surgery import RESTORED_NAME, qk_changes
    from hydrahead.transfer.surgery import restore_qk as restore

    restore(
        pre,
        post,
        out,
        layers=layers,
        variant=variant,
        lambda_=lambda_,
        alpha=alpha,
        merge=merge,
        force=force,
    )
    restored = read_json(out / RESTORED_NAME)
    numbers = sorted({unit["layer"] for unit in restored["units"]})
    data = {"out": str(out), "variant": variant, "layers": numbers, **restored}
    lines: list[Table | str] = []
    if report:
        changes = qk_changes(pre, post, layers=layers)
        data["changes"] = [change.model_dump(mode="json") for change in changes]
        lines += [change_table(changes), "relative change of each matrix by fine-tuning"]
    if not restored["tokenizers_compared"]:
        lines.append("tokenizers were not compared: one of the checkpoints has none")
    lines.append(f"{variant} of layers {', '.join(map(str, numbers))} restored and verified")
    return Outcome(data=data, lines=[*lines, f"wrote {out}"])


def diagnose(
    pre: Pre,
    post: Post,
    out: option.Out,
    variant: VariantName = "qk",
    layers: Layers = "full",
    task: Task = "niah_multikey",
    length: PromptLength = None,
    samples: PerDistance = 20,
    device: option.Device = "auto",
    dtype: option.Dtype = "float32",
    batch_size: option.BatchSize = 8,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Show what fine-tuning did to recall, and what restoring does.

    One table and one picture: recall by distance, attention by distance, and drift by layer, of
    the model before, after, and restored.
    """
    from hydrahead.pipeline.diagnose import PICTURE_NAME, read_diagnosis, recovery
    from hydrahead.pipeline.diagnose import diagnose as diagnose_models

    diagnose_models(
        pre,
        post,
        out,
        variant=variant,
        layers=layers,
        task=task,
        length=length,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        device=pick_device(device),
        dtype=dtype,
        force=force,
    )
    found = read_diagnosis(out)
    far = recovery(found)
    verdict = (
        f"far needles: fine-tuning cost {far['lost']:.3f} ({far['lost_error']:.3f}) of recall, "
        f"restoring gives back {far['back']:.3f} ({far['back_error']:.3f})"
    )
    data = {"out": str(out), "far": far, **found.model_dump(mode="json")}
    lines = [diagnosis_table(found), verdict, f"wrote {out / PICTURE_NAME}", f"wrote {out}"]
    return Outcome(data=data, lines=lines)


def change_table(changes: "Sequence[UnitChange]") -> Table:
    """A line per mixer."""
    table = Table(box=None, pad_edge=False)
    for name in ("layer", "kind"):
        table.add_column(name)
    for name in ("W_Q", "W_K", "W_V"):
        table.add_column(name, justify="right")
    for change in changes:
        values = [_percent(value) for value in (change.q, change.k, change.v)]
        table.add_row(str(change.layer), change.kind, *values)
    return table


def diagnosis_table(found: "Diagnosis") -> Table:
    """Recall, attention distance and drift, before, after and restored."""
    from hydrahead.pipeline.diagnose import MODELS

    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in MODELS:
        table.add_column(name, justify="right")
    for rows in zip(*(found.recall[name] for name in MODELS), strict=True):
        cells = [f"{row.summary.mean:.3f} ({row.summary.standard_error:.3f})" for row in rows]
        table.add_row(f"recall, {rows[0].distance} tokens back", *cells)
    for looks in zip(*(found.attention[name] for name in MODELS), strict=True):
        cells = [f"{look.mean_distance:.1f}" for look in looks]
        table.add_row(f"layer {looks[0].layer}: attention distance", *cells)
    for change in found.changes:
        moved = f"{100 * change.q:.2f}, {100 * change.k:.2f} %"
        table.add_row(f"layer {change.layer}, {change.kind}: moved (Q, K)", "", moved, "")
    return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"
