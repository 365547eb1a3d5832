"""The study's full fine-tuning on one GPU: runs side by side, one JSON.

python gpu.py CORPUS OUT_FOLDER --encoder DIR [--workers 5] [--seconds 480] [--dry-run]

Every worker cuts the corpus into windows once and then takes runs from one list, what matters
first; the file is rewritten after every run. When the time is up, what is unfinished is dropped.
The runs share the device, so their seconds say nothing of speed.
"""

import argparse
import multiprocessing
import time
import traceback
from itertools import product
from pathlib import Path
from queue import Empty
from typing import Any

import torch
from study import arguments, fill_parts, header, read_splits, run, shown

from hydrahead.core.jsonio import write_json

FIRST = ("baseline", "all", "shuffled"), ("w1", "w2"), ("shuffled w1", "shuffled w2")
LAST = ("all longer", 0), ("baseline longer", 0)
"""Would more epochs change the picture?"""


def plan(seeds: int) -> list[tuple[str, int]]:
    """Arm and seed of every run, most important first."""
    return [(arm, seed) for arms in FIRST for seed, arm in product(range(seeds), arms)] + list(LAST)


def work(waiting: Any, finished: Any, given: argparse.Namespace) -> None:
    """Take runs until none is left."""
    torch.set_num_threads(1)
    fill_parts(read_splits(given), given)
    while True:
        arm, seed = waiting.get()
        try:
            finished.put(run(arm, seed, given))
        except Exception:  # the other runs go on; the parent says what failed
            finished.put({"arm": arm, "seed": seed, "error": traceback.format_exc()})


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=480.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--dry-run", action="store_true", help="three documents on the CPU")
    return parser.parse_args()


def main() -> None:
    """Start the workers and gather what they find."""
    asked = options()
    end = time.monotonic() + asked.seconds
    asked.out.mkdir(parents=True, exist_ok=True)
    out = asked.out / "keyphrases_full.json"
    words = [str(asked.corpus), str(out), "--encoder", str(asked.encoder), "--mode", "full"]
    if asked.dry_run:
        words += ["--epochs", "1", "--documents", "3"]
    else:
        words += ["--epochs", str(asked.epochs), "--device", "cuda", "--dtype", "bfloat16"]
    given = arguments(words)
    # Not forked: CUDA does not survive that.
    fresh = multiprocessing.get_context("spawn")
    waiting, finished = fresh.Queue(), fresh.Queue()
    runs = plan(asked.seeds)
    for one in runs:
        waiting.put(one)
    workers = [
        fresh.Process(target=work, args=(waiting, finished, given)) for _ in range(asked.workers)
    ]
    for worker in workers:
        worker.start()
    study = header(read_splits(given), given)
    study["command"] = (
        f"python benchmarks/keyphrases/gpu.py CORPUS OUT --encoder DIR --workers {asked.workers} "
        f"--seconds {asked.seconds:.0f} --epochs {asked.epochs}"
    )
    while runs and any(worker.is_alive() for worker in workers):
        try:
            done = finished.get(timeout=min(10.0, max(0.0, end - time.monotonic())))
        except Empty:
            if time.monotonic() < end:
                continue
            print("the time is up; not done:", *runs, flush=True)
            break
        runs.remove((done["arm"], done["seed"]))
        left = f"{end - time.monotonic():.0f} s left"
        if "error" in done:
            print(done["arm"], done["seed"], left, done["error"][-1500:], flush=True)
            continue
        study["runs"].append(done)
        write_json(out, study)
        print(shown(done), left, flush=True)
    for worker in workers:
        worker.kill()


if __name__ == "__main__":
    main()
