"""What the allocation study runs: scores, gates, and one repaired hybrid per arm, budget and seed.

Every function works in a process of its own and returns plain JSON. All arms of a budget cost the
same bytes and get the same tokens of the same repair; what differs is which units stay full.
"""

import json
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from measure import Question, answers, mean_loss, questions, recall_table

from hydrahead.core.progress import Progress
from hydrahead.core.seeds import generator
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.plan import HeadPlan, HeadScores, ModelGeometry, make_plan
from hydrahead.plan.files import read_plan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.window import WindowSpec
from hydrahead.scoring.run import score
from hydrahead.tasks import codec_from_tokenizer
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.sources import build_source
from hydrahead.transfer.allocation import AllocateConfig, allocate
from hydrahead.transfer.convert import convert
from hydrahead.transfer.distill import distill
from hydrahead.transfer.stage_base import DistillConfig

SCORED = ("retrieval", "counterfactual")
LEARNED = {
    "consa layer": {"unit": "layer", "scope": "global"},
    "consa head global": {"unit": "kv_head", "scope": "global"},
    "consa head per layer": {"unit": "kv_head", "scope": "layer"},
}
"""Arm -> how its gates are tied and constrained."""
STEEP = "consa head global, multiplier rate 1"
"""The open ancestors' rate of the multipliers instead of ours."""
L1 = "l1 gates"
FIXED = ("interleaved layers", "fixed ratio per layer")
ARMS = (*FIXED, L1, *SCORED, *LEARNED, STEEP)


class Settings(NamedTuple):
    """Sizes of a study."""

    teacher: str
    work: str
    device: str
    dtype: str
    window: int
    gate_steps: int
    gate_rows: int
    repair_steps: int
    repair_rows: int
    length: int
    repair_lr: float
    gate_lr: float
    multiplier_lr: float
    context: int
    samples: int
    tasks: tuple[str, ...]
    edges: tuple[int, ...]
    pairs: int
    probe_length: int
    loss_rows: int

    @property
    def replacement(self) -> str:
        """The mixer that takes the place of full attention."""
        return f"window:window={self.window},sinks=0"

    @property
    def data(self) -> str:
        """Half text, half recall samples."""
        return f"{self.work}/train.jsonl*0.5+builtin:recall=1*0.5"


class Job(NamedTuple):
    """One piece of work; `kind` is a function of this module."""

    kind: str
    arm: str
    full_fraction: float
    seed: int

    @property
    def place(self) -> str:
        """A folder name."""
        return f"{self.kind}-{self.arm}-{self.full_fraction:g}-{self.seed}".replace(" ", "_")

    @property
    def needs(self) -> "Job | None":
        """The job whose result this one reads."""
        if self.kind != "hybrid" or self.arm in FIXED:
            return None
        if self.arm in SCORED:
            return Job("scores", self.arm, 0.0, self.seed)
        fraction = 0.0 if self.arm == L1 else self.full_fraction
        return Job("gates", self.arm, fraction, self.seed)


def run(job: Job, settings: Settings) -> dict[str, Any]:
    """Do one job."""
    torch.set_num_threads(1)
    started = time.monotonic()
    result = {"scores": _scores, "gates": _gates, "hybrid": _hybrid, "teacher": _teacher}[job.kind](
        job, settings
    )
    return {**job._asdict(), **result, "seconds": round(time.monotonic() - started, 1)}


def _scores(job: Job, settings: Settings) -> dict[str, Any]:
    out = score(
        settings.teacher,
        out=Path(settings.work) / job.place,
        method=job.arm,
        settings={"pairs": settings.pairs, "length": settings.probe_length},
        seed=job.seed,
        batch_size=16,
        device=settings.device,
        progress=Progress(silent=True),
    )
    return {"values": HeadScores.load(out).kv_head_values().tolist()}


def _gates(job: Job, settings: Settings) -> dict[str, Any]:
    l1 = job.arm == L1
    chosen: dict[str, Any] = {"unit": "kv_head", "scope": "global"} | LEARNED.get(job.arm, {})
    config = AllocateConfig(
        device=settings.device,
        dtype=settings.dtype,  # type: ignore[arg-type]
        seed=job.seed,
        steps=settings.gate_steps,
        batch_size=settings.gate_rows,
        length=settings.length,
        gates="l1" if l1 else "hard_concrete",
        gate_lr=settings.gate_lr,
        multiplier_lr=1.0 if job.arm == STEEP else settings.multiplier_lr,
        checkpoint_every=10_000,
    )
    out = allocate(
        settings.teacher,
        data="builtin:recall=1" if l1 else settings.data,
        out=Path(settings.work) / job.place,
        full_fraction=0.5 if l1 else job.full_fraction,
        pair=f"full:{settings.replacement}",
        config=config,
        progress=Progress(silent=True),
        **chosen,
    )
    summary = json.loads((out / "allocation.json").read_text())
    keys = (
        "expected_full_fraction", "full_fraction", "gap", "rounded_alone", "undecided_units",
        "ties_at_the_cut", "tokens",
    )  # fmt: skip
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    return {
        "values": HeadScores.load(out).kv_head_values().tolist(),
        "summary": {key: summary[key] for key in keys},
        "last": last,
    }


def _hybrid(job: Job, settings: Settings) -> dict[str, Any]:
    place = Path(settings.work) / job.place
    plan = _plan(job, settings)
    cost = plan.cost(settings.context)
    converted = convert(settings.teacher, plan, place / "converted")
    train = {
        "distill": {
            "steps": settings.repair_steps,
            "batch_size": settings.repair_rows,
            "accumulation": 1,
            "length": settings.length,
            "lr": settings.repair_lr,
            "warmup_steps": max(1, settings.repair_steps // 10),
            "checkpoint_every": 10_000,
        }
    }
    config = DistillConfig(
        device=settings.device,
        dtype=settings.dtype,  # type: ignore[arg-type]
        seed=job.seed,
        train=train,
    )
    before = _measured(converted, settings)
    repaired = distill(
        converted,
        data=settings.data,
        out=place / "repaired",
        teacher=settings.teacher,
        stages=["distill"],
        config=config,
        progress=Progress(silent=True),
    )
    full = [[int(spec.name == "full") for spec in layer.units] for layer in plan.layers]
    return {
        "full": full,
        "realised_full_fraction": plan.full_fraction,
        "kv_bytes": cost.kv_bytes,
        "state_bytes": cost.state_bytes,
        "repair_tokens": settings.repair_steps * settings.repair_rows * settings.length,
        "before": before,
        "after": _measured(repaired, settings),
    }


def _teacher(job: Job, settings: Settings) -> dict[str, Any]:
    return {"after": _measured(Path(settings.teacher), settings)}


def _plan(job: Job, settings: Settings) -> HeadPlan:
    geometry = ModelGeometry.from_pretrained(settings.teacher)
    window = WindowSpec(window=settings.window, sinks=0)
    if job.arm in FIXED:
        chosen = _interleaved if job.arm == FIXED[0] else _fixed_ratio
        units = chosen(geometry, job.full_fraction, job.seed)
        return HeadPlan.uniform(geometry, window).replace(dict.fromkeys(units, FullSpec()))
    assert job.needs is not None
    made = Path(settings.work) / job.needs.place
    if job.arm in LEARNED or job.arm == STEEP:
        return read_plan(made / "plan.json")
    scores = HeadScores.load(made)
    return make_plan(scores, full_fraction=job.full_fraction, linear=window).plan


def _interleaved(geometry: ModelGeometry, fraction: float, seed: int) -> list[tuple[int, int]]:
    """Layers as evenly spread as can be, the last of every period full (as shipped models do)."""
    layers = geometry.num_layers
    full = [i for i in range(layers) if int((i + 1) * fraction) > int(i * fraction)]
    return [(layer, unit) for layer in full for unit in range(geometry.num_kv_heads)]


def _fixed_ratio(geometry: ModelGeometry, fraction: float, seed: int) -> list[tuple[int, int]]:
    """The same number of kv_heads in every layer, drawn by the seed."""
    rng = generator(seed, "fixed ratio")
    count, units = round(fraction * geometry.num_kv_heads), range(geometry.num_kv_heads)
    return [(layer, u) for layer in range(geometry.num_layers) for u in rng.sample(units, count)]


def _measured(directory: Path, settings: Settings) -> dict[str, Any]:
    model = load_model(directory, device=settings.device)
    asked = _questions(settings)
    right = answers(model, asked, batch_size=16)
    return {
        "recall": recall_table(asked, right, settings.edges),
        "text": mean_loss(model, iter(_held_out(settings))),
    }


@cache
def _questions(settings: Settings) -> list[Question]:
    codec = codec_from_tokenizer(load_tokenizer(settings.teacher))
    return questions(
        codec, settings.tasks, length=settings.context, num=settings.samples, seed=1234
    )


@cache
def _held_out(settings: Settings) -> list[Any]:
    source = build_source(
        f"{settings.work}/held_out.jsonl",
        load_tokenizer(settings.teacher),
        length=settings.context,
        seed=1,
    )
    rows = PackedBatches(source, batch_size=4, length=settings.context, seed=1)
    return [batch for batch, _ in zip(rows, range(settings.loss_rows // 4), strict=False)]
