"""The verbs around QK-Restore: `restore-qk` and `diagnose`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import RenderableType
from typer import Argument, Option

from hydrahead import cli_options as option
from hydrahead.cli_frame import Outcome, pick_device, verb

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
    from hydrahead.pipeline.diagnosis_table import change_table
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
    lines: list[RenderableType] = []
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
    from hydrahead.pipeline.diagnose import PICTURE_NAME
    from hydrahead.pipeline.diagnose import diagnose as diagnose_models
    from hydrahead.pipeline.diagnosis_table import diagnosis_outcome

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
    data, lines = diagnosis_outcome(out)
    return Outcome(
        data={"out": str(out), **data},
        lines=[*lines, f"wrote {out / PICTURE_NAME}", f"wrote {out}"],
    )
