"""A tiny teacher, hybrids of it, text to train on, and a short run of `distill`."""

import os
import random
import signal
import sys
from pathlib import Path

import torch

from hydrahead.core.progress import Progress
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.lightning import LightningSpec
from hydrahead.transfer.convert import convert
from hydrahead.transfer.distill import distill
from hydrahead.transfer.stage_base import DistillConfig
from tiny_teachers import save_teacher

SHORT = {"steps": 12, "batch_size": 2, "accumulation": 1, "length": 32}
OFTEN = {"warmup_steps": 2, "checkpoint_every": 2, "log_every": 4}
TRAIN = {
    "align": {**SHORT, **OFTEN, "lr": 1e-2},
    "distill": {**SHORT, **OFTEN, "lr": 3e-3, "batch_size": 8},
    "extend": {**SHORT, **OFTEN, "length": 64},
}


def write_text(path, words=4000):
    """Words that follow each other by a rule half of the time."""
    rng = random.Random(0)
    out, word = [], 0
    for _ in range(words):
        word = (3 * word + 1) % 64 if rng.random() < 0.5 else rng.randrange(64)
        out.append(f"w{word}" + ("\n\n" if rng.random() < 0.05 else ""))
    path.write_text(" ".join(out))
    return path


def plans(geometry):
    """all linear; one kv_head of each layer full; mixed and with a layer left alone."""
    linear = HeadPlan.uniform(geometry, GatedDeltaSpec())
    half = linear.replace({(layer, 0): FullSpec() for layer in range(geometry.num_layers)})
    mixed = HeadPlan.all_full(geometry).replace(
        {(0, 1): GatedDeltaSpec(), (2, 0): LightningSpec(), (2, 1): FullSpec(rope=False)}
    )
    return {"linear": linear, "half": half, "mixed": mixed}


def make_cases(root):
    """Directory with `teacher`, `text.txt` and a converted hybrid per plan."""
    teacher = save_teacher(root / "teacher", "qwen3", "tied")
    write_text(root / "text.txt")
    geometry = ModelGeometry.from_pretrained(teacher)
    for name, plan in plans(geometry).items():
        convert(teacher, plan, root / name)
    return root


def repair(root, out, *, hybrid="half", progress=None, **changes):
    """A short `distill`; `changes` are its arguments, or fields of its configuration."""
    fields = {key: changes.pop(key) for key in list(changes) if key in DistillConfig.model_fields}
    stages = changes.get("stages", ("align", "distill"))
    train = {name: changed for name, changed in TRAIN.items() if name in stages}
    config = DistillConfig(**{"train": train, **fields})
    arguments = {"teacher": root / "teacher", "data": root / "text.txt"} | changes
    return distill(
        root / hybrid,
        out=out,
        config=config,
        progress=progress or Progress(silent=True),
        **arguments,
    )


if __name__ == "__main__":  # the process that a test kills while the given stage saves its step 4
    root, out, stage = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    from hydrahead.training import loop

    save = loop.save_checkpoint

    def save_and_die(directory, checkpoint, **settings):
        if directory.parent.name == stage and checkpoint.step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return save(directory, checkpoint, **settings)

    loop.save_checkpoint = save_and_die
    repair(root, out)
