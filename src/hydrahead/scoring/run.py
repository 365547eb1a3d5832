"""Scoring as a call, and as a verb that writes an artefact.

`score_heads` scores a model in memory. `score` loads it, keeps a log of every pair so that the same
command resumes, and writes the scores, a picture of them and the log.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import validate
from hydrahead.core.progress import Progress
from hydrahead.kernels.backend import backends_used
from hydrahead.model.families.all_full import foreign_mixer
from hydrahead.model.loading import load_model, load_tokenizer, resolve_model_dir
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.scores import HeadScores
from hydrahead.scoring.contract import Scorer, ScoringRun
from hydrahead.scoring.heat_map import draw_heat_map
from hydrahead.scoring.pair_log import PairLog
from hydrahead.scoring.table import SCORERS
from hydrahead.tasks import TextCodec, codec_from_tokenizer

PICTURE = "scores.png"


def score_heads(
    model: HydraForCausalLM,
    codec: TextCodec | PreTrainedTokenizerBase | None = None,
    *,
    method: str = "counterfactual",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 4,
    progress: Progress | None = None,
    work: ArtefactWork | None = None,
) -> HeadScores:
    """How much every q_head of a teacher matters.

    Args:
        model: a teacher (all-full hybrid, `load_model` makes one of any checkpoint), in evaluation
            mode.
        codec: the model's tokenizer; every method but "random" needs it.
        method: a name in `SCORERS`.
        settings: of the method's settings class; what is left out has its default.
        seed: of the probes.
        batch_size: samples (substitution: units) per forward. Scores depend on it by rounding only.
        progress: where to show progress; silent by default.
        work: an artefact being made. Results per pair go to its scratch folder, and what is there
            counts
            as done.

    Returns:
        Scores [layer, q_head] with their breakdown.

    Raises:
        HydraHeadError: an unknown method or setting (with a suggestion), a model that is no
            teacher,
            probes longer than its context, or probes it cannot do.
    """
    log = PairLog(None if work is None else work.scratch)
    run = ScoringRun(
        geometry=model.config.head_plan.geometry,
        model=model,
        codec=_as_codec(codec),
        seed=seed,
        batch_size=batch_size,
        progress=progress or Progress(silent=True),
        log=log,
    )
    return _run(make_scorer(method, settings), run)


def score(
    model: str | Path,
    *,
    out: str | Path,
    method: str = "counterfactual",
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    batch_size: int = 4,
    device: str = "cpu",
    dtype: str = "float32",
    attn_implementation: str = "sdpa",
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Score a checkpoint and write an artefact of kind "scores".

    The artefact holds scores.json and scores.npz (`HeadScores.load`), scores.png, and pairs.jsonl
    with what was measured on every pair. A run that was stopped goes on from its last finished pair
    when the same command is given again; batch size and device may differ.

    Args:
        model: a checkpoint directory or Hugging Face name.
        out: the directory to make.
        method, settings, seed, batch_size: as in `score_heads`.
        device, dtype, attn_implementation: how the model runs; patched runs are fp32 or wider
            anyway.
        force: replace an artefact made from something else.
        progress: where to show progress; stderr by default.

    Returns:
        `out`.

    Raises:
        HydraHeadError: as `score_heads`; a model that cannot be loaded; an `out` that is something
            else.
    """
    scorer = make_scorer(method, settings)
    directory = resolve_model_dir(model)
    configuration = {
        "method": method,
        "settings": scorer.settings.model_dump(mode="json", exclude=set(scorer.parents())),
        "dtype": dtype,
        "attn_implementation": attn_implementation,
    }
    parents = {"model": directory, **scorer.parents()}
    with open_artefact(
        Path(out),
        kind="scores",
        configuration=configuration,
        parents=parents,
        seed=seed,
        force=force,
    ) as work:
        if work.reused:
            return Path(out)
        log = PairLog(work.scratch)
        with progress or Progress() as shown:
            run = ScoringRun(
                geometry=ModelGeometry.from_pretrained(directory),
                model=_load(scorer, directory, device, dtype, attn_implementation),
                codec=_as_codec(load_tokenizer(directory)) if scorer.runs_model else None,
                seed=seed,
                batch_size=batch_size,
                progress=shown,
                log=log,
            )
            scores = _run(scorer, run)
        scores.save(work.directory)
        log.save(work.directory)
        draw_heat_map(
            scores.values,
            work.directory / PICTURE,
            title=f"{method} scores of {directory.name}",
            group_size=scores.geometry.group_size,
        )
        work.note_backend("attention", attn_implementation)
        for op, backend in backends_used().items():
            work.note_backend(op, backend)
    return Path(out)


def make_scorer(method: str, settings: Mapping[str, Any] | None = None) -> Scorer:
    """The scorer of a method with its settings.

    Raises:
        HydraHeadError: an unknown method or setting (with a suggestion), or a value that does not
            fit.
    """
    kind: type[Scorer] = SCORERS.load(method)
    return kind(validate(kind.Settings, dict(settings or {}), where=f"settings of {method}"))


def _run(scorer: Scorer, run: ScoringRun) -> HeadScores:
    if run.batch_size < 1:
        raise HydraHeadError(f"batch_size is {run.batch_size}", mend="give at least 1")
    if scorer.runs_model:
        assert not run.teacher.training, "scores are taken in evaluation mode"
        foreign = foreign_mixer(run.teacher.config.head_plan)
        if foreign is not None:
            raise HydraHeadError(
                f"is not a teacher: {foreign}",
                where=run.teacher.config.name_or_path or None,
                mend="score the checkpoint the hybrid was made from",
            )
    try:
        return scorer.score(run)
    except HydraHeadError:
        # What was measured led to this error and would again; nothing is left to resume.
        run.log.discard()
        raise


def _load(
    scorer: Scorer, directory: Path, device: str, dtype: str, attn_implementation: str
) -> HydraForCausalLM | None:
    if not scorer.runs_model:
        return None
    return load_model(
        directory, dtype=dtype, device=device, attn_implementation=attn_implementation
    )


def _as_codec(codec: TextCodec | PreTrainedTokenizerBase | None) -> TextCodec | None:
    if isinstance(codec, PreTrainedTokenizerBase):
        return codec_from_tokenizer(codec)
    return codec
