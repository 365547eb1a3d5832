"""Which way of choosing full units is best, at equal bytes and equal tokens of repair?

    python benchmarks/allocation/study.py --out allocation.json [--minutes 8] [--workers 12]
    python benchmarks/allocation/study.py --out all.json --after some.json     (what is missing)
    python benchmarks/allocation/study.py --out small.json --small --workers 1 --minutes 90   (CPU)
    python benchmarks/allocation/study.py --out dry.json --dry-run        (CPU, to find mistakes)

Arms, budgets and seeds are jobs of their own; a few processes share the device, the result file is
rewritten after each, and nothing new is begun once the time is up. The budgets come in the order of
what the study needs most.
"""

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

import torch
from jobs import ARMS, FIXED, STEEP, Job, Settings, run

from hydrahead.core.jsonio import read_json, write_json
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.recipes.demo import SMALL_TEACHER
from hydrahead.training.data.builtin import builtin_texts

BUDGETS = (
    (0.5, (0, 1, 2)),
    (0.25, (0,)),
    (0.75, (0,)),
    (0.25, (1, 2)),
    (0.125, (0, 1, 2)),
)
"""(full_fraction, seeds), what is needed most first."""
SMALL_BUDGETS = ((0.25, (0,)), (0.75, (0,)))
PER_LAYER = (FIXED[1], "consa head per layer")
"""Arms that need a whole kv_head per layer: a quarter with 4 of them."""
TASKS = ("niah_single", "niah_multikey:keys=8", "niah_multivalue", "mqar")
EDGES = (0, 64, 256, 512, 1024, 1536, 2048)


def study_settings(work: Path, device: str) -> Settings:
    """The real thing."""
    return Settings(
        teacher=str(SMALL_TEACHER), work=str(work), device=device, dtype="bfloat16", window=64,
        gate_steps=400, gate_rows=16, repair_steps=100, repair_rows=16, length=1024,
        repair_lr=4e-4, gate_lr=0.1, multiplier_lr=0.1, context=2048, samples=128, tasks=TASKS,
        edges=EDGES, pairs=4, probe_length=1024, loss_rows=32,
    )  # fmt: skip


def small_settings(work: Path) -> Settings:
    """What a CPU core does in two hours: a sixteenth of the gates' tokens, half the context."""
    return study_settings(work, "cpu")._replace(
        dtype="float32", gate_steps=200, gate_rows=4, repair_steps=40, repair_rows=4, length=512,
        context=1024, samples=32, loss_rows=16, edges=(0, 64, 256, 512, 768, 1024),
        probe_length=512,
    )  # fmt: skip


def dry_settings(work: Path) -> Settings:
    """Everything, on a CPU, in minutes; its numbers mean nothing."""
    return study_settings(work, "cpu")._replace(
        dtype="float32", gate_steps=3, gate_rows=1, repair_steps=2, repair_rows=1, length=256,
        context=384, samples=2, pairs=1, probe_length=256, loss_rows=4,
        tasks=("niah_single", "mqar"), edges=(0, 64, 384),
    )  # fmt: skip


def jobs(
    budgets: tuple[tuple[float, tuple[int, ...]], ...],
    arms: tuple[str, ...],
    there: frozenset[Job] = frozenset(),
) -> list[Job]:
    """Every job once, each after what it needs; none that only serves hybrids already `there`."""
    teacher = Job("teacher", "teacher", 1.0, 0)
    found: dict[Job, None] = dict.fromkeys({teacher} - there)
    for fraction, seeds in budgets:
        able = [arm for arm in arms if _has(fraction, arm)]
        wanted = [Job("hybrid", arm, fraction, seed) for seed in seeds for arm in able]
        wanted = [job for job in wanted if job not in there]
        # Gates first: they take longest, and what needs nothing fills the time beside them.
        found |= dict.fromkeys(job.needs for job in wanted if job.needs and job.arm in arms)
        found |= dict.fromkeys(wanted)
    return list(found)


def _has(fraction: float, arm: str) -> bool:
    """Whether an arm exists at a budget; the second rate of multipliers is tried at one only."""
    if arm == STEEP:
        return fraction == 0.25
    return fraction >= 0.25 or arm not in PER_LAYER


def job_of(result: dict[str, Any]) -> Job:
    """What a result is of."""
    return Job(result["kind"], result["arm"], result["full_fraction"], result["seed"])


def write_texts(work: Path) -> None:
    """The builtin corpus as files, every tenth text held out: parsing it anew is slow."""
    files = {name: (work / f"{name}.jsonl").open("w") for name in ("train", "held_out")}
    for number, text in enumerate(builtin_texts()):
        name = "held_out" if number % 10 == 0 else "train"
        files[name].write(json.dumps({"text": text}) + "\n")
    for file in files.values():
        file.close()


class Study:
    """Hands jobs to processes and keeps the result file up to date."""

    def __init__(self, todo: list[Job], settings: Settings, out: Path, deadline: float) -> None:
        self._todo = todo
        self._settings = settings
        self._out = out
        self._deadline = deadline
        self._done: set[Job] = set()
        self._failed: set[Job] = set()
        self._result: dict[str, Any] = {
            "command": " ".join(["python", *sys.argv]),
            "git_commit": git_commit(),
            "library_versions": library_versions(),
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
            "settings": {k: v for k, v in settings._asdict().items() if k not in ("work",)}
            | {"teacher": "small_teacher"},
            "n_per_task": settings.samples,
            "results": [],
            "failed": [],
        }

    def note_commit(self, commit: str | None) -> None:
        """The commit, where git does not tell."""
        self._result["git_commit"] = commit or self._result["git_commit"]

    def take_up(self, earlier: dict[str, Any]) -> None:
        """Results of an earlier run with the same settings, but for what is run again."""
        # Read back from JSON, tuples are lists.
        if earlier["settings"] != json.loads(json.dumps(self._result["settings"])):
            raise SystemExit("--after: that run had other settings")
        self._result["results"] = [r for r in earlier["results"] if job_of(r) not in self._todo]
        self._result["earlier_commits"] = [
            *earlier.get("earlier_commits", ()), earlier["git_commit"]
        ]  # fmt: skip

    def execute(self, workers: int) -> None:
        """Everything there is time for."""
        context = multiprocessing.get_context("spawn")
        running: dict[Future[dict[str, Any]], Job] = {}
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            while True:
                while len(running) < workers and (job := self._next(running)) is not None:
                    running[pool.submit(run, job, self._settings)] = job
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    self._note(running.pop(future), future)
        write_json(self._out, self._result)

    def _next(self, running: dict[Future[dict[str, Any]], Job]) -> Job | None:
        if time.monotonic() > self._deadline:
            return None
        taken = set(running.values()) | self._done | self._failed
        for job in self._todo:
            if job not in taken and (job.needs is None or job.needs in self._done):
                return job
        return None

    def _note(self, job: Job, future: "Future[dict[str, Any]]") -> None:
        try:
            result = future.result()
        except Exception as error:  # one arm must not take the others with it; it is reported
            self._failed.add(job)
            self._result["failed"].append({**job._asdict(), "error": f"{error!r}"[:400]})
            print(f"FAILED {job}: {error!r}", flush=True)
        else:
            self._done.add(job)
            self._result["results"].append(result)
            print(f"{job.place}: {result['seconds']} s", flush=True)
        write_json(self._out, self._result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--after", type=Path, help="result of an earlier run; does what it lacks")
    parser.add_argument("--commit", help="where the code is no git checkout")
    parser.add_argument("--small", action="store_true", help="the size for a CPU")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    work = Path(tempfile.mkdtemp(prefix="allocation-"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        write_texts(work)
        settings, budgets = study_settings(work, device), BUDGETS
        if options.dry_run:
            settings, budgets = dry_settings(work), ((0.5, (0,)), (0.25, (0,)))
        elif options.small:
            settings, budgets = small_settings(work), SMALL_BUDGETS
        arms = tuple(arm for arm in ARMS if arm != STEEP or not options.small)
        earlier = read_json(options.after) if options.after else None
        there = frozenset(map(job_of, earlier["results"])) if earlier else frozenset[Job]()
        study = Study(jobs(budgets, arms, there), settings, options.out, deadline)
        study.note_commit(options.commit)
        if earlier:
            study.take_up(earlier)
        study.execute(options.workers)
    finally:
        shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
