"""`diagnose`: has fine-tuning cost long-range recall, and does QK-Restore bring it back?

Three models are compared: PRE, POST, and POST restored. The answer is one table and one picture:
recall of a needle by its distance, how far back the full-attention heads of each layer look, and
how far W_Q and W_K of each layer have moved.
"""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, validate, write_json
from hydrahead.core.seeds import derive_seed
from hydrahead.evaluation.results import RESULTS_NAME, EvaluationResults, read_results
from hydrahead.evaluation.runner import evaluate
from hydrahead.evaluation.statistics import Summary, difference, summarise
from hydrahead.model.families.teacher import read_config
from hydrahead.model.hub import resolve_model_dir
from hydrahead.model.loading import load_any_causal_lm, load_tokenizer
from hydrahead.pipeline.attention_distance import LayerAttention, attention_distance
from hydrahead.pipeline.diagnosis_picture import draw_diagnosis
from hydrahead.tasks import build_task, codec_from_tokenizer
from hydrahead.transfer.surgery import qk_changes, restore_qk
from hydrahead.transfer.surgery_adapters import is_adapter
from hydrahead.transfer.surgery_report import UnitChange

KIND = "diagnosis"
RESULT_NAME = "diagnosis.json"
PICTURE_NAME = "diagnosis.png"
MODELS = ("before", "after", "restored")
DEFAULT_LENGTH = 2048
_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
_LOOKED_AT = 8


class Recall(BaseModel):
    """Recall of one model with the needle at one distance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    distance: int
    """Tokens from the needle to the end of the prompt, about."""
    summary: Summary


class Diagnosis(BaseModel):
    """Everything that was found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    length: int
    variant: str
    layers: str
    recall: dict[str, tuple[Recall, ...]]
    """Model -> by distance, ascending."""
    attention: dict[str, tuple[LayerAttention, ...]]
    changes: tuple[UnitChange, ...]
    """Of every unit, linear ones too."""


def diagnose(
    pre: str | Path,
    post: str | Path,
    out: Path,
    *,
    variant: str = "qk",
    layers: str = "full",
    task: str = "niah_multikey",
    length: int | None = None,
    samples: int = 20,
    seed: int = 0,
    batch_size: int = 8,
    device: str = "cpu",
    dtype: str = "float32",
    force: bool = False,
) -> Path:
    """Compare PRE, POST and POST restored; write `diagnosis.json` and `diagnosis.png`.

    Args:
        pre: The checkpoint before fine-tuning.
        post: The one after it, or a LoRA adapter on `pre`.
        out: The artefact to make. While it is made it holds one or two copies of the model.
        variant: What to restore; see `restore_qk`.
        layers: Where; see `restore_qk`.
        task: A needle task with a depth.
        length: Tokens of each prompt; the model's context, but no more than 2048, if None.
        samples: Per distance.
        seed: Of the prompts.
        batch_size: Prompts decoded at once.
        device: Where models run.
        dtype: What they run in.
        force: Replace another artefact at `out`.

    Returns:
        `out`.

    Raises:
        HydraHeadError: as `restore_qk` and `evaluate`, or a task without a depth.
    """
    before, after = resolve_model_dir(pre), resolve_model_dir(post)
    built = build_task(task)
    if not built.has_depth:
        raise HydraHeadError(
            f"task {built.name!r} has no depth, so recall by distance is not defined",
            where="--task",
            mend="use niah_single or niah_multikey",
        )
    limit = _context(before)
    tokens = length or min(DEFAULT_LENGTH, limit or DEFAULT_LENGTH)
    if limit is not None and tokens > limit:
        raise HydraHeadError(
            f"length {tokens} is beyond the model's context of {limit} tokens",
            where="--length",
            mend=f"ask for at most {limit}",
        )
    changes = qk_changes(before, after, layers="all")  # refuses what does not belong together
    qk_changes(before, after, layers=layers)
    configuration = {
        "variant": variant,
        "layers": layers,
        "task": built.name,
        "length": tokens,
        "samples": samples,
        "dtype": dtype,
    }
    run = _Run(
        task=built.name,
        length=tokens,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
    )
    run.prompts(before)  # a length too short for the task shows before any work
    with open_artefact(
        out,
        kind=KIND,
        configuration=configuration,
        parents={"pre": before, "post": after},
        seed=seed,
        force=force,
    ) as work:
        if not work.reused:
            models = _three_models(before, after, work, variant=variant, layers=layers)
            results = run.recall(models, work)
            looked_at = sorted({change.layer for change in changes if change.kind == "full"})
            found = Diagnosis(
                task=built.name,
                length=tokens,
                variant=variant,
                layers=layers,
                recall=_by_distance(results),
                attention={
                    name: run.attention(path, looked_at)
                    for name, path in zip(MODELS, models, strict=True)
                },
                changes=changes,
            )
            write_json(work.directory / RESULT_NAME, found.model_dump(mode="json"))
            draw_diagnosis(found, work.directory / PICTURE_NAME)
    return Path(out)


def read_diagnosis(out: Path) -> Diagnosis:
    """What `diagnose` wrote."""
    return validate(Diagnosis, read_json(out / RESULT_NAME), where=out / RESULT_NAME)


def recovery(found: Diagnosis) -> dict[str, float]:
    """Over the farther half of the distances: recall lost, recall given back, and its error."""
    distances = [entry.distance for entry in found.recall["before"]]
    far = [i for i, distance in enumerate(distances) if distance >= found.length / 2]
    pooled = {name: _pooled([found.recall[name][i].summary for i in far]) for name in MODELS}
    lost, lost_error = difference(pooled["before"], pooled["after"])
    back, back_error = difference(pooled["restored"], pooled["after"])
    return {"lost": lost, "lost_error": lost_error, "back": back, "back_error": back_error}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """How the three models are asked."""

    task: str
    length: int
    samples: int
    seed: int
    batch_size: int
    device: str
    dtype: str

    def recall(self, models: Sequence[Path], work: ArtefactWork) -> EvaluationResults:
        """Recall by distance; the evaluation's own file is kept beside the diagnosis."""
        out = work.scratch / "recall"
        evaluate(
            models,
            tasks=self.task,
            lengths=(self.length,),
            samples=self.samples * len(_SHARES),
            depths=[1 - share for share in _SHARES],
            seed=self.seed,
            batch_size=self.batch_size,
            device=self.device,
            dtype=self.dtype,
            out=out,
        )
        shutil.copyfile(out / RESULTS_NAME, work.directory / "recall.json")
        return read_results(out)

    def attention(self, model: Path, layers: Sequence[int]) -> tuple[LayerAttention, ...]:
        """Attention by distance on a few prompts of the same kind."""
        loaded = load_any_causal_lm(
            model, dtype=self.dtype, device=self.device, attn_implementation="eager"
        )
        return attention_distance(loaded, self.prompts(model), layers=layers)

    def prompts(self, model: Path) -> list[tuple[int, ...]]:
        """A few prompts whose needles lie near and far."""
        codec = codec_from_tokenizer(load_tokenizer(model))
        task = build_task(self.task)
        return [
            task.sample(
                codec,
                length=self.length,
                seed=derive_seed(self.seed, "diagnose"),
                index=index,
                depth=_SHARES[index % len(_SHARES)],
            ).prompt_ids
            for index in range(_LOOKED_AT)
        ]


def _three_models(
    pre: Path, post: Path, work: ArtefactWork, *, variant: str, layers: str
) -> tuple[Path, Path, Path]:
    whole, merge = post, is_adapter(post)
    if merge:  # alpha 0 takes nothing back: the adapter merged as it is
        whole = work.scratch / "post"
        restore_qk(pre, post, whole, alpha=0.0, merge=True)
    restored = work.scratch / "restored"
    restore_qk(pre, post, restored, variant=variant, layers=layers, merge=merge)
    return pre, whole, restored


def _by_distance(results: EvaluationResults) -> dict[str, tuple[Recall, ...]]:
    found: dict[str, tuple[Recall, ...]] = {}
    for name, model in zip(MODELS, results.models, strict=True):
        cells = sorted(model.cells, key=lambda cell: -(cell.depth or 0.0))
        found[name] = tuple(
            Recall(distance=round((1 - (cell.depth or 0.0)) * cell.length), summary=cell.summary)
            for cell in cells
        )
    return found


def _pooled(summaries: Sequence[Summary]) -> Summary:
    """One summary over equally large cells."""
    mean = math.fsum(summary.mean for summary in summaries) / len(summaries)
    error = math.hypot(*(s.standard_error for s in summaries)) / len(summaries)
    whole = summarise([mean])
    n = sum(summary.n for summary in summaries)
    return whole.model_copy(update={"n": n, "standard_error": error})


def _context(model: Path) -> int | None:
    """Tokens the model is made for; None where its configuration does not say."""
    config = read_config(model)
    inner = config.get("text_config")
    limit = {**config, **(inner if isinstance(inner, dict) else {})}.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None
