"""The Falcon-H1 study: attention and Mamba-2 heads beside each other, and a plan inside the block.

    python benchmarks/falcon_h1/study.py --out DIR [--minutes 9] [--steps N] [--no-speed] [--small]

Every arm of `arms.py` is trained at equal parameters and tokens with three seeds, all runs as
processes on the one GPU at once; then the full heads of the arms in `SWEPT` are given away to
windows, fewer and fewer by score, each with a short repair. How many steps there are follows from
the pace of the slowest run and from --minutes, or is given by --steps, so that arms can be trained
at another time on as many tokens. DIR gets, always as far as it came: `routes.json`
(which kernel trains the scan), `speed.json` (prefill and decoding by context), `study.json`.

--no-speed leaves the first two out (routes.py and speed.py make them at another time) and trains
every arm on the reference kernels: plain torch, so that nothing is compiled and the GPU may be
shared. Timings of training are then no result.

--small is a size for one CPU core, about half an hour: nothing is trained from scratch. The
bundled teacher's full heads are given away to windows, to windows beside new Mamba-2 heads, and to
gated_delta, each repaired for as many tokens. One run after the other; the same command goes on
where it was stopped.

--dry-run does the GPU size in little on the CPU, to find mistakes; with --small, the CPU size.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from arms import ARMS, FROM_TEACHER, SWEPT, WINDOW, Size, matched_mlp, num_parameters  # noqa: E402
from data import Extent, make  # noqa: E402

from hydrahead.core.jsonio import write_json  # noqa: E402
from hydrahead.core.provenance import git_commit, library_versions  # noqa: E402
from hydrahead.kernels.ssd.fast import ROUTES  # noqa: E402

SEEDS = (0, 1, 2)
SMALL = Extent(
    shares=(1.0,),
    lengths=(256,),
    steps=30,
    tokens_per_step=1024,
    eval_lengths=(256,),
    text_share=0.5,
    samples=48,
    text_rows=24,
)
ROUTES_SECONDS, SPEED_SECONDS = 110, 80
SWEEP_SHARE = 0.3
"""Of the time that is left for training and sweeps."""


class Study:
    """One call: its clock, its processes and its results."""

    def __init__(
        self, out: Path, scratch: Path, minutes: float, dry: bool, arms: list[str]
    ) -> None:
        self.out, self.scratch, self.dry = out, scratch, dry
        self.started = time.time()
        self.deadline = self.started + 60 * minutes
        out.mkdir(parents=True, exist_ok=True)
        self.size = Size(layers=2, hidden=32, head_dim=16, state=8) if dry else Size()
        small = {"steps": 24, "tokens_per_step": 512, "samples": 8, "text_rows": 4}
        self.extent = Extent(**small) if dry else Extent()  # type: ignore[arg-type]
        self.runs = [(arm, seed) for seed in ((0,) if dry else SEEDS) for arm in arms]
        self.workers: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self.record: dict[str, Any] = {
            "git_commit": git_commit(),
            "libraries": library_versions(),
            "command": " ".join(sys.argv),
            "log": [],
        }

    def say(self, text: str) -> None:
        """A line with the time, also in the record."""
        line = f"{time.time() - self.started:6.1f} s  {text}"
        print(line, flush=True)
        self.record["log"].append(line)

    def environment(self, **more: str) -> dict[str, str]:
        """For child processes: one thread each, the package on the path."""
        source = str(HERE.parents[1] / "src")
        path = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
        return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}

    def routes(self) -> str:
        """Measure the training routes; returns the winner."""
        process = subprocess.Popen(
            [sys.executable, str(HERE / "routes.py"), str(self.out / "routes.json")],
            env=self.environment(),
        )
        try:
            process.wait(ROUTES_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            self.say("routes.py was cut off")
        return self._winner()

    def data(self) -> None:
        """Batches and samples for all runs, which wait for them."""
        workers = 2 if self.dry else max(2, (os.cpu_count() or 4) - 2)
        make(self.extent, self.scratch / "data", workers)

    def _winner(self) -> str:
        path = self.out / "routes.json"
        measured = json.loads(path.read_text())["measured"] if path.exists() else {}
        right = {
            name.removeprefix("study/"): found["milliseconds"]
            for name, found in measured.items()
            if name.startswith("study/") and found["right"]
        }
        return min(right, key=right.__getitem__) if right else "products"

    def speed(self) -> None:
        """Alone on the GPU, for a limited time."""
        command = [sys.executable, str(HERE / "speed.py"), str(self.out / "speed.json")]
        try:
            subprocess.run(
                command + (["--tiny"] if self.dry else []),
                env=self.environment(),
                timeout=SPEED_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            self.say("speed.py was cut off")

    def one_by_one(self, arms: list[str]) -> None:
        """The CPU size: see the module's text."""
        self.extent = SMALL
        seeds, repair = SEEDS, SMALL.steps
        if self.dry:
            seeds, repair = SEEDS[:1], 1
            self.extent = replace(SMALL, steps=2, samples=2, text_rows=2)
        settings = {
            "base": "teacher",
            "device": "cpu",
            "dtype": "float32",
            "size": asdict(self.size),
            "extent": asdict(self.extent),
            "lr": 2e-3,
            "window": 16,
            "repair_steps": repair,
            "pace_steps": 0,
            "deadline": 1e18,
            "graphs": False,
        }
        self.record |= {"settings": settings, "extent": asdict(self.extent), "route": "reference"}
        self.record |= {"steps": repair, "hardware": f"{cpu_name()}, one core, fp32"}
        self.scratch.mkdir(exist_ok=True)
        path = self.scratch / "settings.json"
        if path.exists() and json.loads(path.read_text()) != json.loads(json.dumps(settings)):
            sys.exit(f"{path}: made with other settings; give another --out")
        write_json(path, settings)
        if not (self.scratch / "data" / "done").exists():
            make(self.extent, self.scratch / "data", 1)
        for seed in seeds:
            for arm in arms:
                self._launch("from_teacher.py", arm, seed, HYDRAHEAD_KERNELS="reference")
                while self.workers[arm, seed].poll() is None:
                    time.sleep(1)
                    self.save()
                self.say(f"{arm} {seed} ended with {self.workers[arm, seed].returncode}")

    def start(self, route: str, graphs: bool) -> None:
        """All runs at once."""
        settings = {
            "base": "scratch",
            "device": "cpu" if self.dry else "cuda",
            "dtype": "float32" if self.dry else "bfloat16",
            "size": asdict(self.size),
            "extent": asdict(self.extent),
            "lr": 3e-3,
            "window": 16 if self.dry else WINDOW,
            "repair_steps": 2 if self.dry else 100,
            "pace_steps": 2 if self.dry else 30,
            "deadline": self.deadline - (4 if self.dry else 10),
            "graphs": graphs,
        }
        parameters = {
            arm: num_parameters(arm, self.size, matched_mlp(arm, self.size)) for arm in ARMS
        }
        self.record |= {"settings": settings, "route": route, "hardware": hardware()}
        self.record |= {"size": asdict(self.size), "extent": asdict(self.extent)}
        self.record |= {"parameters": parameters, "swept": list(SWEPT)}
        write_json(self.scratch / "settings.json", settings)
        self.save()
        name = "HYDRAHEAD_KERNELS" if route == "reference" else "HYDRAHEAD_SSD_ROUTE"
        for arm, seed in self.runs:
            self._launch("train.py", arm, seed, **{name: route})

    def _launch(self, script: str, arm: str, seed: int, **more: str) -> None:
        with (self.scratch / f"log_{arm}_{seed}.txt").open("wb") as log:
            self.workers[arm, seed] = subprocess.Popen(
                [sys.executable, str(HERE / script), str(self.scratch), arm, str(seed)],
                env=self.environment(**more),
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def gather(self, name: str, seconds: float) -> dict[tuple[str, int], Any]:
        """Wait until every live run has written `name`; runs that died or are late are dropped."""
        limit = time.time() + seconds
        while time.time() < limit:
            there = [run for run in self.workers if self._file(name, run).exists()]
            alive = [run for run, p in self.workers.items() if p.poll() is None]
            if set(alive) <= set(there):
                break
            time.sleep(0.2)
        found = {}
        for run, process in list(self.workers.items()):
            path = self._file(name, run)
            if path.exists() and process.poll() is None:
                found[run] = json.loads(path.read_text())
                continue
            process.kill()
            self.say(f"{run} is dropped at {name!r}: {self._tail(run)}")
            del self.workers[run]
        return found

    def _file(self, name: str, run: tuple[str, int]) -> Path:
        return self.scratch / f"{name}_{run[0]}_{run[1]}.json"

    def _tail(self, run: tuple[str, int]) -> str:
        return (self.scratch / f"log_{run[0]}_{run[1]}.txt").read_text(errors="replace")[-600:]

    def train(self, fixed: int | None) -> None:
        """Meet twice, then let them run until the time is up.

        Args:
            fixed: Steps of every run, in place of what the pace allows.
        """
        ready = self.gather("ready", 120)
        self.say(f"{len(ready)} runs are warm")
        write_json(self.scratch / "measure.json", {})
        pace = {run: found["seconds_per_step"] for run, found in self.gather("pace", 60).items()}
        slowest = max(pace.values())
        left = (self.deadline - time.time()) * (1 - SWEEP_SHARE) - 15
        # What slows the slowest is the others, which are done earlier.
        typical = 0.5 * (slowest + sum(pace.values()) / len(pace))
        steps = fixed or min(self.extent.steps, max(12, int(left / typical)))
        self.record["pace"] = {f"{arm} {seed}": value for (arm, seed), value in pace.items()}
        self.record["steps"] = steps
        self.say(f"{steps} steps at {1000 * slowest:.0f} ms for the slowest")
        write_json(self.scratch / "budget.json", {"steps": steps})
        while time.time() < self.deadline and any(p.poll() is None for p in self.workers.values()):
            time.sleep(1)
            self.save()

    def save(self) -> None:
        """Everything known, in one file."""
        results = sorted(self.scratch.glob("result_*.json"))
        self.record["runs"] = [json.loads(path.read_text()) for path in results]
        write_json(self.out / "study.json", self.record)

    def stop(self) -> None:
        """End the runs that this call started."""
        for run, process in self.workers.items():
            if process.poll() is None:
                process.kill()
                self.say(f"{run} was stopped at the deadline")
            elif process.returncode:
                self.say(f"{run} failed: {self._tail(run)}")
        self.save()


def hardware() -> str:
    """What the runs train on."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name(0)}, all runs at once"
    return f"CPU, {os.cpu_count()} cores"


def cpu_name() -> str:
    """The processor's name, where Linux tells it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "CPU"


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description="the Falcon-H1 study")
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--minutes", type=float, default=9.0, help="of the whole call")
    parser.add_argument("--steps", type=int, help="of every run; by the pace and --minutes")
    parser.add_argument("--no-speed", action="store_true", help="skip routes.py and speed.py")
    parser.add_argument("--route", choices=("reference", *ROUTES), help="training kernels")
    parser.add_argument("--no-graphs", action="store_true", help="train without CUDA graphs")
    parser.add_argument("--arms", help="which arms, with commas; all")
    parser.add_argument("--small", action="store_true", help="the size for one CPU core")
    parser.add_argument("--dry-run", action="store_true", help="in small, on the CPU")
    arguments = parser.parse_args()
    every = FROM_TEACHER if arguments.small else ARMS
    arms = arguments.arms.split(",") if arguments.arms else list(every)
    # What the CPU size goes on from stays with its results.
    scratch = arguments.out / "work"
    if not arguments.small:
        scratch = Path(tempfile.mkdtemp(prefix="falcon_h1_"))
    study = Study(arguments.out, scratch, arguments.minutes, arguments.dry_run, arms)
    route = arguments.route or "reference"
    try:
        if arguments.small:
            study.one_by_one(arms)
            return 0
        if not (arguments.no_speed or arguments.dry_run):
            route = arguments.route or study.routes()
            study.say(f"training route: {route}")
        if not arguments.no_speed:
            study.speed()
            study.say("speed measured")
        study.start(route, graphs=not arguments.no_graphs)
        study.data()
        study.say("data made")
        study.train(arguments.steps)
    finally:
        study.stop()
    study.say("done")
    study.save()
    return 0


if __name__ == "__main__":
    sys.exit(main())
