"""`allocate`: learn which units stay full, within a budget, and write scores, plan and histories.

The artefact (kind "allocation") holds scores as `score` writes them (scores.json, scores.npz, so
`plan` takes the directory), the plan (plan.json), the gates after every step (gates.npz), what was
reported while training (metrics.jsonl) and a summary (allocation.json). With trained weights it
also holds the model the plan belongs to (model/), and its twins where it has any (twins/).
"""

import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import Tensor

from hydrahead.core.artefacts import ArtefactWork, open_artefact
from hydrahead.core.errors import HydraHeadError
from hydrahead.core.jsonio import write_json
from hydrahead.core.progress import Progress
from hydrahead.core.seeds import derive_seed
from hydrahead.kernels.backend import backends_used
from hydrahead.model.families.teacher import Teacher, open_teacher
from hydrahead.model.hub import resolve_model_dir
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.plan.array_files import save_arrays
from hydrahead.plan.files import write_plan
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.training.checkpoints import list_checkpoints
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.sources import build_source, local_paths
from hydrahead.training.layers import decoder_layers
from hydrahead.training.loop import train
from hydrahead.training.optimiser import MasterAdamW
from hydrahead.transfer.allocation.blend import Blend, make_blend
from hydrahead.transfer.allocation.config import AllocateConfig
from hydrahead.transfer.allocation.discretise import (
    Target,
    find_target,
    gate_scores,
    round_gates,
    with_pair,
)
from hydrahead.transfer.allocation.gates import GATES, Gates
from hydrahead.transfer.allocation.lagrangian import scope_of
from hydrahead.transfer.allocation.objective import (
    AllocationObjective,
    AnswerLoss,
    NextTokenLoss,
    TaskLoss,
)
from hydrahead.transfer.allocation.optimiser import GateOptimiser
from hydrahead.transfer.allocation.pair import Pair, parse_pair, require_pair
from hydrahead.transfer.allocation.trained_model import write_trained
from hydrahead.transfer.twins import Twins

KIND = "allocation"
SUMMARY = "allocation.json"


def allocate(
    model: str | Path,
    *,
    data: str | Path,
    out: Path,
    full_fraction: float | None = None,
    kv_bytes: tuple[int, int] | None = None,
    pair: str = "full:window",
    scope: str = "global",
    unit: str = "kv_head",
    twins: Path | None = None,
    config: AllocateConfig | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Learn which units run the first mixer of a pair, and write the plan.

    Args:
        model: The teacher: a checkpoint of a known family, or an all-full directory of ours.
        data: What to train on; see `training.data.sources`.
        out: The directory to make; a finished one of the same inputs is reused, a half-done one
            resumed.
        full_fraction: Share of the free units that keep the first mixer, strictly between 0 and 1.
        kv_bytes: (bytes, context) instead: as many as fit, as in `make_plan`.
        pair: The mixers, "FIRST:SECOND" with settings behind each.
        scope: "layer": every layer meets the budget, rounded half up; "global": all together.
        unit: "kv_head", or "layer", whose kv_heads share a gate.
        twins: Aligned twins, where a mixer of the pair is linear.
        config: How to train; by default as in the paper where it says.
        force: Replace an `out` made from other inputs.
        progress: Where to show loss, expected and realised full fraction.

    Returns:
        `out`.

    Raises:
        HydraHeadError: Anything wrong with the inputs, before anything runs; a loss that diverges.
        TrainingInterrupted: SIGINT or SIGTERM; the same call resumes.
    """
    config = config or AllocateConfig()
    source = resolve_model_dir(model)
    teacher = open_teacher(source)
    chosen = parse_pair(pair, length=config.length)
    _check(teacher, chosen, config, twins)
    target = find_target(
        teacher.geometry,
        chosen,
        full_fraction=full_fraction,
        kv_bytes=kv_bytes,
        unit=unit,
        scope=scope_of(scope),
    )
    parents: dict[str, Path | str] = {"model": source}
    if twins is not None:
        parents["twins"] = Path(twins)
    for number, path in enumerate(local_paths(data)):
        parents[f"data_{number}" if number else "data"] = path
    recorded = {
        "data": str(data),
        "pair": chosen.to_dict(),
        "unit": unit,
        "scope": scope,
        "full_fraction": full_fraction,
        "kv_bytes": kv_bytes,
        **config.model_dump(mode="json", exclude={"seed", "device"}),
    }
    with open_artefact(
        out, kind=KIND, configuration=recorded, parents=parents, seed=config.seed, force=force
    ) as work:
        if not work.reused:
            run = _Allocation(source, teacher, chosen, target, twins, str(data), config)
            with nullcontext(progress) if progress is not None else Progress() as shown:
                run.write(work, shown)
    return Path(out)


def _check(teacher: Teacher, pair: Pair, config: AllocateConfig, twins: Path | None) -> None:
    """Everything that can be known to be wrong without loading weights."""
    GATES.target(config.gates)
    context = teacher.geometry.max_positions
    if config.length > context:
        raise HydraHeadError(
            f"rows of {config.length} tokens are longer than the model's context of {context}",
            where="length",
            mend="lower --length",
        )
    require_pair(pair, twins=twins, length=config.length, context=context)
    if twins is not None:
        opened = Twins(Path(twins))
        for spec in (pair.kept, pair.replacement):
            if not spec.shares_keys_when_split:
                opened.require(HeadPlan.uniform(teacher.geometry, spec))


class _Allocation:
    """One call of `allocate`, after its arguments were checked."""

    def __init__(
        self,
        source: Path,
        teacher: Teacher,
        pair: Pair,
        target: Target,
        twins: Path | None,
        data: str,
        config: AllocateConfig,
    ) -> None:
        self._source = source
        self._teacher = teacher
        self._pair = pair
        self._target = target
        self._data = data
        self._config = config
        geometry = teacher.geometry
        self._shape = (len(geometry.free_layers), target.columns(geometry))
        model = load_model(
            source,
            dtype=config.dtype,
            device=config.device,
            attn_implementation=config.attn_implementation,
        )
        opened = None if twins is None else Twins(Path(twins))
        self._blend: Blend = make_blend(model, teacher, pair, twins=opened, seed=config.seed)
        model.requires_grad_(config.train_weights)
        gates: type[Gates] = GATES.load(config.gates)
        self._gates = gates(
            self._shape, scope=target.scope, full_fraction=target.full_fraction, config=config
        ).to(model.device)
        weights = MasterAdamW(model, config.training()) if config.train_weights else None
        self._optimiser = GateOptimiser(self._gates, num_steps=config.steps, weights=weights)

    def write(self, work: ArtefactWork, progress: Progress) -> None:
        """Train, or go on training, and fill the artefact."""
        try:
            self._train(work.scratch, progress)
        except HydraHeadError:
            if not list_checkpoints(work.scratch / "checkpoints"):  # nothing to resume from
                shutil.rmtree(work.scratch)
            raise
        target = work.directory
        geometry = self._teacher.geometry
        settings = {"pair": self._pair.to_dict(), "unit": self._target.unit}
        openness = self._gates.openness.cpu()
        scores = gate_scores(geometry, openness, self._optimiser.history, settings)
        scores.save(target)
        planned = round_gates(scores, self._pair, self._target)
        plan = with_pair(planned.plan, self._pair)
        summary = self._summary(planned.num_chosen, planned.num_items, planned.ties.total)
        belongs_to = self._source
        if self._config.train_weights:
            belongs_to = write_trained(target, self._blend, self._teacher, self._pair)
        write_plan(
            target / "plan.json",
            plan,
            configuration={"allocation": {**settings, "scope": self._target.scope}},
            report=summary,
            parents={"model": belongs_to},
            seed=self._config.seed,
            force=True,
        )
        write_json(target / SUMMARY, summary)
        _save_history(target / "gates.npz", self._optimiser.history, self._optimiser.multipliers)
        shutil.copyfile(work.scratch / "metrics.jsonl", target / "metrics.jsonl")
        work.note_backend("attention", self._config.attn_implementation)
        for op, backend in backends_used().items():
            work.note_backend(op, backend)

    def _train(self, folder: Path, progress: Progress) -> None:
        config = self._config
        seed = derive_seed(config.seed, "data", "allocate")
        tokenizer = load_tokenizer(self._source)
        mixture = build_source(self._data, tokenizer, length=config.length, seed=seed)
        batches = PackedBatches(
            mixture,
            batch_size=config.batch_size,
            length=config.length,
            seed=seed,
            vocab_size=self._blend.model.config.vocab_size,
        )
        train(
            self._blend.model,
            AllocationObjective(self._blend, self._gates, self._task_loss()),
            batches,
            config.training(),
            folder,
            progress=progress,
            label="allocate",
            blocks=decoder_layers(self._blend.model),
            optimiser=self._optimiser,
        )

    def _task_loss(self) -> TaskLoss:
        match self._config.loss or self._gates.default_loss:
            case "next_token":
                return NextTokenLoss(self._blend.model)
            case "answers":
                return AnswerLoss(self._blend, self._shape)

    def _summary(self, chosen: int, items: int, ties: int) -> dict[str, Any]:
        """The numbers worth reporting, plain JSON."""
        expected = float(self._gates.expected())
        realised = chosen / items
        return {
            "requested_full_fraction": self._target.requested,
            "requested_kv_bytes": self._target.kv_bytes,
            "target_full_fraction": self._target.full_fraction,
            "expected_full_fraction": expected,
            "full_fraction": realised,
            "gap": expected - realised,
            "rounded_alone": float(self._gates.realised()),
            "kept_units": chosen,
            "units": items,
            "undecided_units": self._gates.undecided(),
            "ties_at_the_cut": ties,
            "open_share_by_layer": {
                str(layer): float(row.mean())
                for layer, row in zip(self._blend.layers, self._gates.settled().cpu(), strict=True)
            },
            "tokens": self._config.steps * self._config.training().tokens_per_step,
            "pair": self._pair.to_dict(),
            "unit": self._target.unit,
            "scope": self._target.scope,
            "gates": self._config.gates,
        }


def _save_history(path: Path, gates: Tensor, multipliers: Tensor) -> None:
    """Both over all steps, [step, ...]; numpy reads it."""
    arrays = {"gates": gates.double().numpy(), "multipliers": multipliers.double().numpy()}
    save_arrays(path, arrays)
