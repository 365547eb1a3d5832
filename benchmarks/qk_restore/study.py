"""The study of QK-Restore on a small hybrid: collapse by fine-tuning, and what brings recall back.

    python benchmarks/qk_restore/study.py --out DIR [--device cuda] [--workers 12] [--minutes 8]
    python benchmarks/qk_restore/study.py --out DIR --small --workers 1
    python benchmarks/qk_restore/study.py --out DIR --dry-run

1. Per seed a base: the bundled small teacher, full_fraction 0.25 by its bundled scores, the rest
   lightning heads (the linear attention of the paper's HypeNet), distilled at up to 1024 tokens.
   With --small one base for all seeds, distilled at 512 tokens.
2. Pilot on seed 0: chain fine-tuning at several learning rates, measured along the way. The main
   rate is the smallest at which recall of 4 keys far away ends below half of the base's and half
   of the chains are solved (where no rate does both, the collapsed one which solves most).
3. Per seed at that rate: chain, chain with W_Q and W_K of the full heads frozen, independent sums,
   running text; after the chain every variant and control of `arms`.

Each arm is a process. `results.json` is written again after every measurement of any of them, so a
run that is cut keeps what it has. Predictions, stated before the run: Q+K > Q > K >> V; frozen
worse on the task than restored; no collapse without a chain; the linear heads' q and k do not
matter.
"""

import argparse
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

TEACHER = Path(str(files("hydrahead.assets"))) / "small_teacher"
SCORES = Path(str(files("hydrahead.assets"))) / "small_teacher_scores"
SEEDS = (0, 1, 2)
RATES = (3e-4, 6e-4)
SMALL_RATES = (6e-4, 1e-3)
FAR = 512
"""Tokens between needle and answer from which a needle is far."""
FAR_TASK = "niah_multikey:keys=4"

FULL: dict[str, Any] = {
    "batch_size": 32,
    "row_tokens": 256,
    "snapshots": (100, 500),
    "steps_per_problem": 4,
    "highest": 99,
    "recall_length": 1024,
    "distances": (96, 256, 512, 896),
    "samples": 40,
    "problems": 256,
    "eval_batch": 32,
}
SMALL: dict[str, Any] = {
    "batch_size": 8,
    "row_tokens": 128,
    "snapshots": (80, 200),
    "steps_per_problem": 3,
    "highest": 9,
    "recall_length": 512,
    "distances": (96, 448),
    "samples": 32,
    "problems": 96,
    "eval_batch": 8,
}
DRY: dict[str, Any] = {
    "batch_size": 2,
    "row_tokens": 64,
    "snapshots": (1, 2),
    "steps_per_problem": 4,
    "highest": 99,
    "recall_length": 192,
    "distances": (64, 128),
    "samples": 2,
    "problems": 2,
    "eval_batch": 2,
}
FULL_BASE = {
    "align": {"steps": 80, "batch_size": 32, "length": 512, "lr": 3e-3, "warmup_steps": 10},
    "distill": {"steps": 200, "batch_size": 16, "length": 1024, "lr": 1e-3, "warmup_steps": 20},
}
SMALL_BASE = {
    "align": {"steps": 60, "batch_size": 4, "length": 256, "lr": 3e-3, "warmup_steps": 6},
    "distill": {"steps": 150, "batch_size": 4, "length": 512, "lr": 1e-3, "warmup_steps": 15},
}
DRY_BASE = {
    "align": {"steps": 1, "batch_size": 2, "length": 96, "lr": 3e-3, "warmup_steps": 1},
    "distill": {"steps": 1, "batch_size": 2, "length": 96, "lr": 1e-3, "warmup_steps": 1},
}


def make_base(out: str, seed: int, device: str, train: Any, linear: str) -> None:
    """The base hybrid of one seed, at `out`/base."""
    from hydrahead import HeadScores, convert, distill, make_plan
    from hydrahead.core.progress import Progress
    from hydrahead.transfer.stage_base import DistillConfig

    where = Path(out)
    planned = make_plan(HeadScores.load(SCORES), full_fraction=0.25, linear=linear)
    convert(TEACHER, planned.plan, where / "converted", seed=seed)
    distill(
        where / "converted",
        teacher=TEACHER,
        data="builtin:recall=0.7",
        out=where / "base",
        config=DistillConfig(
            device=device,
            dtype="float32" if device == "cpu" else "bfloat16",
            seed=seed,
            train=train,
        ),
        progress=Progress(silent=True),
    )


def run_job(job: dict[str, Any], report_to: str) -> None:
    """One arm; the child's entry."""
    import torch
    from arms import Arm, run_arm

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = True

    def report(result: dict[str, Any]) -> None:
        target = Path(report_to)
        target.with_suffix(".tmp").write_text(json.dumps(result))
        os.replace(target.with_suffix(".tmp"), target)

    run_arm(Arm(**job), report)


class Study:
    """The jobs, the processes and the one file of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out = Path(options.out)
        self.work = Path(options.work or (self.out / "work"))
        self.work.mkdir(parents=True, exist_ok=True)
        self.out.mkdir(parents=True, exist_ok=True)
        self.started = time.monotonic()
        self.settings, self.base_training = FULL, FULL_BASE
        if options.dry_run:
            self.settings, self.base_training = DRY, DRY_BASE
        elif options.small:
            self.settings, self.base_training = SMALL, SMALL_BASE
        self.seeds = SEEDS[:1] if options.dry_run else SEEDS[: options.seeds]
        self.notes: dict[str, Any] = {}
        self.failed: list[str] = []

    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.started

    def left(self) -> float:
        """Of the time given."""
        return 60 * self.options.minutes - self.seconds()

    def bases(self) -> None:
        """One per seed, all at once; one for all seeds where that is what time allows."""
        if self.options.base:
            self.notes["base"] = "given"
            return
        jobs = [
            (
                f"base-{seed}",
                make_base,
                (
                    str(self.work / f"seed-{seed}"),
                    seed,
                    self.options.device,
                    self.base_training,
                    self.options.linear,
                ),
            )
            for seed in sorted({self.base_seed(seed) for seed in self.seeds})
        ]
        self._run(jobs)
        self.notes["base"] = f"{len(jobs)} for {len(self.seeds)} seeds"

    def base_seed(self, seed: int) -> int:
        """The seed of the base that an arm of this seed starts from."""
        return SEEDS[0] if self.options.small else seed

    def job(self, seed: int, kind: str, lr: float, *, frozen: bool = False) -> dict[str, Any]:
        """One arm's settings."""
        name = f"{kind}{'-frozen' if frozen else ''} lr {lr:g} seed {seed}"
        base = self.options.base or str(self.work / f"seed-{self.base_seed(seed)}" / "base")
        return {
            **self.settings,
            "name": name,
            "base": base,
            "seed": seed,
            "kind": kind,
            "frozen": frozen,
            "lr": lr,
            "variants": kind == "chain" and not frozen,
            "device": self.options.device,
        }

    def arms(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Run arms side by side."""
        self._run(
            [(job["name"], run_job, (job, str(self.report_file(job["name"])))) for job in jobs]
        )

    def report_file(self, name: str) -> Path:
        """Where an arm keeps what it has."""
        return self.work / f"{name.replace(' ', '_')}.json"

    def _run(self, jobs: Sequence[tuple[str, Any, tuple[Any, ...]]]) -> None:
        context = multiprocessing.get_context("spawn")
        waiting = list(jobs)
        running: dict[str, Any] = {}
        while waiting or running:
            while waiting and len(running) < self.options.workers:
                name, target, arguments = waiting.pop(0)
                process = context.Process(target=target, args=arguments, name=name)
                process.start()
                running[name] = process
            time.sleep(0.2)
            for name, process in list(running.items()):
                if process.exitcode is not None:
                    del running[name]
                    print(f"{self.seconds():6.1f} s  {name}: exit {process.exitcode}", flush=True)
                    if process.exitcode:
                        self.failed.append(name)
            if self.left() < 0:
                waiting = []
                for process in running.values():
                    process.kill()
            self.write()

    def write(self) -> None:
        """Everything known so far, in one file."""
        arms: dict[str, Any] = {}
        for path in sorted(self.work.glob("*.json")):
            try:
                arms[path.stem] = json.loads(path.read_text())
            except json.JSONDecodeError:  # being replaced
                continue
        results = {
            "command": " ".join(["python", "benchmarks/qk_restore/study.py", *sys.argv[1:]]),
            "commit": self.options.commit,
            "hardware": self.options.hardware,
            "seconds": round(self.seconds(), 1),
            "linear": self.options.linear,
            "settings": self.settings,
            "base_training": self.base_training,
            "notes": self.notes,
            "failed": self.failed,
            "arms": arms,
        }
        target = self.out / "results.json"
        target.with_suffix(".tmp").write_text(json.dumps(results))
        os.replace(target.with_suffix(".tmp"), target)

    def choose_rate(self, rates: Sequence[float]) -> float:
        """The rate of the main part, by the rule in the module's text."""
        seen: dict[str, Any] = {}
        collapsed: list[tuple[float, float]] = []
        for rate in rates:
            path = self.report_file(self.job(0, "chain", rate)["name"])
            result: Any = json.loads(path.read_text()) if path.exists() else {}
            if not result.get("snapshots"):
                continue
            before = far_recall(result["before"]["recall"][FAR_TASK])
            last = result["snapshots"][-1]["after"]
            after, solved = far_recall(last["recall"][FAR_TASK]), last["task"]["chain"]
            seen[f"{rate:g}"] = {"before": before, "after": after, "chains solved": solved}
            if after < before / 2:
                collapsed.append((rate, solved))
        both = [rate for rate, solved in collapsed if solved >= 0.5]
        most = max(collapsed, key=lambda pair: pair[1], default=(rates[-1], 0.0))[0]
        chosen = min(both, default=most)
        self.notes["pilot"] = {"far recall of 4 keys": seen, "chosen rate": chosen}
        return chosen


def far_recall(by_distance: dict[str, float]) -> float:
    """Mean over the far distances (over all where none is far)."""
    far = [value for key, value in by_distance.items() if int(key) >= FAR]
    values = far or list(by_distance.values())
    return sum(values) / len(values)


def hardware(device: str) -> str:
    """What it runs on, in words."""
    import torch

    return torch.cuda.get_device_name() if device != "cpu" else "CPU"


def main() -> None:
    """Everything, in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", required=True, help="gets results.json")
    parser.add_argument("--work", help="bases and the arms' own files (default: OUT/work)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--linear", default="lightning")
    parser.add_argument("--base", help="a base hybrid for all seeds, instead of making one each")
    parser.add_argument("--rates", help="of the pilot, with commas between")
    parser.add_argument("--small", action="store_true", help="what a CPU can do in an hour")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    # The torch reference everywhere: no kernel is compiled, and every process starts at once.
    os.environ["HYDRAHEAD_KERNELS"] = "reference"
    from hydrahead.core.provenance import git_commit

    options.commit = git_commit()
    options.hardware = hardware(options.device)
    usual = SMALL_RATES if options.small else RATES
    rates = [float(rate) for rate in options.rates.split(",")] if options.rates else usual
    study = Study(options)
    study.bases()
    pilot = [study.job(0, "chain", rate) for rate in rates]
    study.arms(pilot)
    rate = study.choose_rate(rates)
    main_jobs = [
        study.job(seed, kind, rate, frozen=frozen)
        for kind, frozen in (("chain", False), ("chain", True), ("sums", False), ("text", False))
        for seed in study.seeds
    ]
    study.arms([job for job in main_jobs if job not in pilot])
    study.write()
    print(
        f"{study.seconds():.0f} s, failed: {study.failed or 'none'}; {study.out / 'results.json'}"
    )


if __name__ == "__main__":
    main()
