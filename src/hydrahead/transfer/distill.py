"""`distill`: repair a converted hybrid, stage by stage, and write it in the format it was read in.

Every stage leaves its last checkpoint in the artefact's scratch folder, so a run stopped anywhere
goes on from the last checkpoint of the stage it was in; stages that are done only hand on their
weights.
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import read_json, write_json
from hydrahead.core.progress import Progress
from hydrahead.core.records import artefact_kind, read_record
from hydrahead.core.seeds import derive_seed
from hydrahead.kernels.backend import backends_used
from hydrahead.model.checkpoint import SafetensorsReader, ShardWriter
from hydrahead.model.hub import resolve_model_dir
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.training.checkpoints import list_checkpoints
from hydrahead.training.config import TrainConfig
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.sources import build_source, local_paths
from hydrahead.training.loop import train
from hydrahead.training.memory import require_memory
from hydrahead.transfer.artefact_files import copy_companions
from hydrahead.transfer.calibrate import NUM_BATCHES, calibrate_fusion
from hydrahead.transfer.replay import attentions
from hydrahead.transfer.stage_base import DistillConfig, Stage
from hydrahead.transfer.stages import check_order, check_settings, load_stage

KIND = "model"
_CALIBRATION = "calibration.json"


def distill(
    hybrid_dir: str | Path,
    *,
    data: str | Path,
    out: Path,
    teacher: str | Path | None = None,
    stages: Sequence[str] = ("align", "distill"),
    config: DistillConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Repair a hybrid and write it to `out`.

    Args:
        hybrid_dir: A directory written by `convert` or `distill`.
        data: What to train on; see `training.data.sources`.
        out: The directory to make; a finished one of the same inputs is reused, a half-done one
            resumed.
        teacher: The model the hybrid was made from; stage extend alone does without.
        stages: Any of align, distill, extend, in that order.
        config: Settings; by default those of the papers.
        force: Replace an `out` made from other inputs.
        progress: Where to show tokens per second, loss and time left.

    Returns:
        `out`.

    Raises:
        HydraHeadError: Anything wrong with the inputs, a run that cannot fit or that diverges.
        TrainingInterrupted: SIGINT or SIGTERM; the same call resumes.
    """
    config = config or DistillConfig()
    source = resolve_model_dir(hybrid_dir)
    done = _stages_done(source)
    names = check_order(stages, done)
    settings = check_settings(config, names)
    teacher_dir = _teacher_dir(teacher, names)
    parents: dict[str, Path | str] = {"hybrid": source}
    if teacher_dir is not None:
        parents["teacher"] = teacher_dir
    for number, path in enumerate(local_paths(data)):
        parents[f"data_{number}" if number else "data"] = path
    recorded = {
        "data": str(data),
        "stages": list(names),
        "stages_done": [*done, *(name for name in names if name not in done)],
        "settings": {name: value.model_dump(mode="json") for name, value in settings.items()},
        **config.model_dump(mode="json", exclude={"train", "seed", "device"}),
    }
    with open_artefact(
        out, kind=KIND, configuration=recorded, parents=parents, seed=config.seed, force=force
    ) as work:
        if not work.reused:
            run = _Repair(source, teacher_dir, str(data), config, work)
            with nullcontext(progress) if progress is not None else Progress() as shown:
                run.write([run.stage(name, settings[name], shown) for name in names])
    return Path(out)


class _Repair:
    """One call of `distill` after its arguments were checked."""

    def __init__(
        self,
        source: Path,
        teacher_dir: Path | None,
        data: str,
        config: DistillConfig,
        work: ArtefactWork,
    ) -> None:
        self._source = source
        self._data = data
        self._config = config
        self._work = work
        self._tokenizer = load_tokenizer(source)
        self._hybrid = self._load(source, config.dtype)
        self._teacher: HydraForCausalLM | None = None
        if teacher_dir is not None:
            require_same_tokenizer(self._tokenizer, load_tokenizer(teacher_dir), teacher_dir)
            dtype = config.teacher_dtype or config.dtype
            self._teacher = self._load(teacher_dir, dtype).requires_grad_(False)
            _require_same_vocabulary(self._hybrid, self._teacher, teacher_dir)

    def _load(self, directory: Path, dtype: str) -> HydraForCausalLM:
        config = self._config
        return load_model(
            directory,
            dtype=dtype,
            device=config.device,
            attn_implementation=config.attn_implementation,
        )

    def stage(self, name: str, settings: TrainConfig, progress: Progress) -> dict[str, Any]:
        """Run one stage, or go on with it; what to record about it."""
        try:
            return self._stage(name, settings, progress)
        except HydraHeadError:
            if not list(self._work.scratch.glob("*/checkpoints/*")):  # nothing to resume from
                shutil.rmtree(self._work.scratch)
            raise

    def _stage(self, name: str, settings: TrainConfig, progress: Progress) -> dict[str, Any]:
        stage = load_stage(name)
        _require_length(self._hybrid, settings, name)
        folder = self._work.scratch / name
        batches = self._batches(name, settings)
        prepared = stage.prepare(self._hybrid, self._teacher, self._config)
        # Before `_calibrate`, which makes batches; `train` asks again.
        require_memory(self._hybrid, settings, layer_by_layer=stage.layer_by_layer)
        self._calibrate(stage, name, settings)
        result = train(
            self._hybrid,
            prepared.objective,
            batches,
            settings,
            folder,
            progress=progress,
            label=name,
            blocks=prepared.blocks,
            layer_by_layer=stage.layer_by_layer,
        )
        return {
            "stage": name,
            "steps": result.steps,
            "tokens": result.tokens,
            "final_loss": result.final_loss,
        }

    def _batches(self, name: str, settings: TrainConfig) -> PackedBatches:
        seed = derive_seed(self._config.seed, "data", name)
        mixture = build_source(self._data, self._tokenizer, length=settings.length, seed=seed)
        return PackedBatches(
            mixture,
            batch_size=settings.batch_size,
            length=settings.length,
            seed=seed,
            vocab_size=self._hybrid.config.vocab_size,
        )

    def _calibrate(self, stage: Stage, name: str, settings: TrainConfig) -> None:
        """Fusion scalars from the first batches of the first stage, unless that was done before."""
        hybrid = self._hybrid
        if hybrid.config.fusion_calibrated or not stage.needs_teacher:
            return
        if all(attention.fusion is None for attention in attentions(hybrid)):
            return
        if list_checkpoints(self._work.scratch / name / "checkpoints"):
            hybrid.config.fusion_calibrated = True  # the checkpoint holds the scalars
            return
        assert self._teacher is not None
        batches = self._batches(name, settings)
        first = (batch for batch, _ in zip(batches, range(NUM_BATCHES), strict=False))
        measured = calibrate_fusion(hybrid, self._teacher, first)
        write_json(self._work.scratch / _CALIBRATION, measured)

    def write(self, results: list[dict[str, Any]]) -> None:
        """The repaired hybrid, its metrics and what was done, into the artefact."""
        target = self._work.directory
        write_weights(self._hybrid, self._source, target)
        config = read_json(self._source / "config.json")
        config["fusion_calibrated"] = self._hybrid.config.fusion_calibrated
        write_json(target / "config.json", config)
        copy_companions(self._source, target)
        if (self._source / "README.md").exists():
            shutil.copyfile(self._source / "README.md", target / "README.md")
        log = target / "training"
        log.mkdir(exist_ok=True)
        calibration = self._work.scratch / _CALIBRATION
        summary = {
            "stages": results,
            "calibration": read_json(calibration) if calibration.exists() else None,
        }
        write_json(log / "training.json", summary)
        for result in results:
            name = result["stage"]
            shutil.copyfile(self._work.scratch / name / "metrics.jsonl", log / f"{name}.jsonl")
        for op, backend in backends_used().items():
            self._work.note_backend(op, backend)


def write_weights(hybrid: HydraForCausalLM, source: Path, target: Path) -> None:
    """Every parameter under its name, in the dtype `source` stores it in."""
    reader = SafetensorsReader(source)
    with ShardWriter(target) as writer:
        for name, parameter in hybrid.named_parameters():
            stored = reader.entry(name).dtype if name in reader else parameter.dtype
            writer.add(name, parameter.detach().to(stored))


def require_same_tokenizer(
    hybrid: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, where: Path
) -> None:
    """Refuse a teacher that cuts text into other tokens.

    Raises:
        HydraHeadError: The vocabularies differ; names a token.
    """
    ours, theirs = hybrid.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    token = min(
        token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)
    )
    raise HydraHeadError(
        f"the teacher's tokenizer is another one: token {token!r} is {theirs.get(token)} there and "
        f"{ours.get(token)} in the hybrid",
        where=where,
        mend="give the model the hybrid was converted from",
    )


def _require_same_vocabulary(
    hybrid: HydraForCausalLM, teacher: HydraForCausalLM, where: Path
) -> None:
    ours, theirs = hybrid.config.vocab_size, teacher.config.vocab_size
    if ours != theirs:
        raise HydraHeadError(
            f"the teacher predicts {theirs} tokens, the hybrid {ours}",
            where=where,
            mend="give the model the hybrid was converted from",
        )


def _require_length(hybrid: HydraForCausalLM, settings: TrainConfig, name: str) -> None:
    limit = hybrid.config.max_position_embeddings
    if settings.length > limit:
        raise HydraHeadError(
            f"rows of {settings.length} tokens are longer than the model's context of {limit}",
            where=f"settings of stage {name!r}",
            mend="lower length, or raise max_position_embeddings in the hybrid's config.json",
        )


def _teacher_dir(teacher: str | Path | None, names: Sequence[str]) -> Path | None:
    needing = [name for name in names if load_stage(name).needs_teacher]
    if not needing:
        return None
    if teacher is None:
        mend = "name the model the hybrid was converted from"
        raise HydraHeadError(f"stage {needing[0]!r} needs the teacher", mend=mend)
    return resolve_model_dir(teacher)


def _stages_done(directory: Path) -> list[str]:
    if artefact_kind(directory) != KIND:
        return []
    return list(read_record(directory).configuration.get("stages_done", []))
