"""The study on a GPU: many small runs as parallel processes, both modes, one JSON per mode.

python gpu.py CORPUS OUT_FOLDER --encoder DIR [--workers 12] [--seconds 220] [--dry-run]

Runs are started most important first and stopped when the time is up; what has finished is kept.
Times in the result are those of runs that share the device, so speed is not taken from here.
"""

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

STUDY = Path(__file__).with_name("study.py")
MAIN = ("baseline", "all", "shuffled")
REST = ("w1", "w2", "all add", "all trained vectors")


def plan(seeds: tuple[int, ...]) -> list[tuple[str, str, int]]:
    """Mode, arm and seed of every run, most important first."""
    first = list(product(("full",), MAIN, seeds)) + list(product(("frozen",), MAIN, seeds))
    return first + list(product(("full", "frozen"), REST, seeds))


def command(given: argparse.Namespace, mode: str, arm: str, seed: int, out: Path) -> list[str]:
    """One run as a process of its own."""
    small = ["--documents", "3", "--epochs", "1"] if given.dry_run else []
    where = ["--device", "cpu" if given.dry_run else "cuda"]
    narrow = ["--dtype", "bfloat16"] if mode == "full" and not given.dry_run else []
    epochs = [] if given.dry_run else ["--epochs", "3" if mode == "full" else "4"]
    options = ["--encoder", str(given.encoder), "--mode", mode, "--arms", arm, "--seeds", str(seed)]
    return [
        *(sys.executable, str(STUDY), str(given.corpus), str(out)),
        *(*options, *where, *narrow, *epochs, *small),
    ]


def merge(folder: Path, pieces: Path) -> None:
    """All finished runs of a mode in one file."""
    for mode in ("frozen", "full"):
        whole: dict[str, Any] | None = None
        for piece in sorted(pieces.glob(f"{mode}-*.json")):
            found = json.loads(piece.read_text())
            whole = whole or {**found, "runs": []}
            whole["runs"] += found["runs"]
        if whole is not None:
            whole["command"] = "python benchmarks/keyphrases/gpu.py CORPUS OUT --encoder DIR"
            (folder / f"keyphrases_{mode}_gpu.json").write_text(json.dumps(whole, indent=1))


def main() -> None:
    """Start, wait, merge."""
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--encoder", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=220.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dry-run", action="store_true", help="three documents on the CPU")
    given = parser.parse_args()
    pieces = given.corpus / "study" / "pieces"
    pieces.mkdir(parents=True, exist_ok=True)
    given.out.mkdir(parents=True, exist_ok=True)
    waiting = plan(tuple(range(given.seeds)))
    running: dict[subprocess.Popen[bytes], str] = {}
    end = time.monotonic() + given.seconds
    while (waiting or running) and time.monotonic() < end:
        while waiting and len(running) < given.workers:
            mode, arm, seed = waiting.pop(0)
            name = f"{mode}-{arm.replace(' ', '_')}-{seed}"
            log = (pieces / f"{name}.log").open("wb")
            words = command(given, mode, arm, seed, pieces / f"{name}.json")
            running[subprocess.Popen(words, stdout=log, stderr=log)] = name
        time.sleep(0.5)
        for process in [p for p in running if p.poll() is not None]:
            name = running.pop(process)
            print(name, "exit code", process.returncode, f"{end - time.monotonic():.0f} s left")
            if process.returncode:
                print((pieces / f"{name}.log").read_text()[-1500:])
            merge(given.out, pieces)
    for process in running:
        process.kill()
    merge(given.out, pieces)


if __name__ == "__main__":
    main()
