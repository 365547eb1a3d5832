"""`hydrahead keyphrases`: train a tagger, find the keyphrases of documents, score them."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from typer import Argument, Option

from hydrahead import cli_options as option
from hydrahead.cli_frame import Outcome, assignments, pick_device, verb

keyphrases = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Find keyphrases in long documents."
)

_DOCUMENTS = "JSONL or parquet with text and keyphrases, or hf:midas/NAME:SPLIT"
Encoder = Annotated[
    str, Argument(metavar="ENCODER", help="A model directory or Hugging Face name.")
]
Data = Annotated[str, Option(metavar="SOURCE", help=f"{_DOCUMENTS}.")]
Validation = Annotated[
    str | None, Option(metavar="SOURCE", help="To choose the epoch on; else a tenth of --data.")
]
Vectors = Annotated[
    Path | None,
    Option(metavar="FILE", help="word2vec or GloVe; else the encoder's input embeddings."),
]
Neighbours = Annotated[
    str, Option(metavar="N", help="Windows to each side that are looked at, all, or 0 for none.")
]
Join = Annotated[str, Option(metavar="NAME", help="concat or add.")]
Freeze = Annotated[
    bool, Option("--freeze-encoder", help="Train only what is new: minutes on a CPU.")
]
Epochs = Annotated[int, Option(metavar="N", min=1, help="Passes over the data.")]
Windows = Annotated[int, Option("--batch-size", metavar="N", min=1, help="Windows at a time.")]
Tagger = Annotated[str, Argument(metavar="MODEL", help="What train wrote, or a Hugging Face name.")]
Files = Annotated[
    list[Path],
    Argument(metavar="FILE...", help="Text, Markdown, HTML, PDF; or a JSONL of documents."),
]
ExtractOut = Annotated[
    Path | None, Option("--out", metavar="DIR", help="Keep the phrases as predictions.jsonl.")
]
Top = Annotated[int, Option(metavar="N", min=1, help="Phrases per document at most.")]
Subject = Annotated[
    str, Argument(metavar="MODEL", help="A tagger, or a predictions.jsonl to be scored.")
]


@verb(keyphrases)
def train(
    encoder: Encoder,
    data: Data,
    out: option.Out,
    validation: Validation = None,
    vectors: Vectors = None,
    neighbours: Neighbours = "all",
    join: Join = "concat",
    freeze_encoder: Freeze = False,
    epochs: Epochs = 10,
    settings: option.Settings = None,
    device: option.Device = "auto",
    dtype: option.TrainDtype = "float32",
    batch_size: Windows = 16,
    seed: option.Seed = 0,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Train a tagger on an encoder; the epoch is chosen on the validation split."""
    from hydrahead.core.jsonio import read_json
    from hydrahead.keyphrase.training import train_keyphrases

    chosen = {
        "neighbours": neighbours if neighbours == "all" else _whole_number(neighbours),
        "join": join,
        "freeze_encoder": freeze_encoder,
        "epochs": epochs,
        "dtype": dtype,
        "batch_size": batch_size,
        "seed": seed,
    }
    train_keyphrases(
        encoder,
        data=data,
        out=out,
        validation=validation,
        vectors=vectors,
        settings={**chosen, **assignments(settings)},
        device=pick_device(device),
        force=force,
    )
    summary = read_json(out / "training.json")
    lines = [
        f"epoch {summary['best_epoch']}, threshold {summary['threshold']}, "
        f"ranking {summary['ranking']}",
        f"adds {summary['added_parameters']} parameters, {100 * summary['added_share']:.3f} % "
        "of the encoder",
        *_score_lines(summary["validation"]),
        f"wrote {out}",
    ]
    return Outcome(data={"out": str(out), "training": summary}, lines=lines)


@verb(keyphrases)
def extract(
    model: Tagger,
    files: Files,
    out: ExtractOut = None,
    top: Top = 10,
    device: option.Device = "auto",
    batch_size: Windows = 8,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Find the keyphrases of documents, best first."""
    from hydrahead.keyphrase.extract import extract_files

    found = extract_files(
        model,
        files,
        out=out,
        top=top,
        device=pick_device(device),
        batch_size=batch_size,
        force=force,
    )
    lines: list[Any] = []
    for document in found:
        table = Table(box=None, pad_edge=False, title=document["id"], title_justify="left")
        table.add_column("keyphrase", overflow="fold")
        table.add_column("score", justify="right")
        table.add_column("count", justify="right")
        for phrase in document["keyphrases"]:
            table.add_row(phrase["phrase"], f"{phrase['score']:.3g}", str(phrase["count"]))
        lines.append(table if document["keyphrases"] else f"{document['id']}: none")
    wrote = {} if out is None else {"out": str(out)}
    return Outcome(
        data={**wrote, "documents": found}, lines=[*lines, *(f"wrote {o}" for o in wrote.values())]
    )


@verb(keyphrases)
def evaluate(
    model: Subject,
    data: Data,
    out: option.Out,
    device: option.Device = "auto",
    batch_size: Windows = 8,
    force: option.Force = False,
    json: option.Json = False,
) -> Outcome:
    """Score a tagger, or predictions made by anything, against gold keyphrases."""
    from hydrahead.keyphrase.evaluation import evaluate_keyphrases

    scores = evaluate_keyphrases(
        model,
        data=data,
        out=out,
        device=pick_device(device),
        batch_size=batch_size,
        force=force,
    )
    return Outcome(
        data={"out": str(out), "scores": scores}, lines=[*_score_lines(scores), f"wrote {out}"]
    )


def _score_lines(scores: Any) -> list[str]:
    """One line per score, shares as such and counts as they are."""
    width = max(map(len, scores), default=0)
    return [
        f"{name.replace('_', ' '):{width}}  "
        + (f"{value:.3f}" if isinstance(value, float) else f"{value}")
        for name, value in scores.items()
    ]


def _whole_number(text: str) -> int:
    from hydrahead.core.errors import HydraHeadError

    if not text.isdigit():
        raise HydraHeadError(
            f"{text!r} is no number of windows",
            where="--neighbours",
            mend="give 0, 1, 2 ... or all",
        )
    return int(text)
