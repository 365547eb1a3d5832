"""Fast kernels against the references on a GPU: outputs, final states, every gradient.

    python benchmarks/kernels/verify.py --out verify.json [--op OP ...] [--quick] [--workers 8]

The truth is the reference in fp64 on the same (rounded) inputs. Fresh memory is filled with NaN, so
that a kernel that reads what it did not write is found. Errors are relative: norm of the difference
over norm of the truth; NaN fails. Exit code 1 if anything failed. Compiling takes nearly all of the
time, on the CPU: cases that compile the same kernels go to one worker process. fla compiles every
kernel in dozens of tile sizes, to choose the fastest; --tile-sizes N leaves N of them, evenly
spread, where the time does not allow for all.
"""

import argparse
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cases import Case, environment, fast_form, inputs, settings
from torch import Tensor

from hydrahead.core.jsonio import write_json
from hydrahead.kernels.backend import REFERENCES

TOLERANCES = {"bfloat16": 0.01, "float32": 0.004}
"""Of outputs, states and gradients; fp32 runs in TF32 inside fla."""
GATE_TOLERANCES = {"bfloat16": 0.03, "float32": 0.01}
"""Of the gradients of gates, which are sums of terms that cancel."""
Tensors = dict[str, Tensor]
GATES = ("gradient of log_decay", "gradient of beta")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One tensor of one case."""

    case: str
    tensor: str
    error: float
    tolerance: float
    passed: bool


def all_cases(quick: bool) -> Iterator[Case]:
    """The matrix. Each new (head_dim, dtype) pair costs a minute or two of compilation."""
    packed = ((1, 63, 65, 871), (500, 500))
    yield from scan_cases(quick, packed)
    for op in ("gated_delta", "lightning"):
        main = Case(op=op)
        yield main
        for groups in (1, 2):
            yield replace(main, groups=groups)
        yield replace(main, form="recurrent", tokens=1, groups=2)
        if quick:
            continue
        for tokens in (1, 63, 1000):
            yield replace(main, tokens=tokens)
        yield replace(main, tokens=1000, state=False)
        yield replace(main, tokens=1000, lengths=packed, state=False)
        yield replace(main, tokens=1000, lengths=packed, groups=2)
        yield replace(main, form="recurrent", tokens=64)
        if op == "gated_delta":
            yield replace(main, tokens=1000, beta_range=2.0)
        else:
            yield replace(main, tokens=1000, padded=True, groups=2)
            yield replace(main, form="recurrent", tokens=64, padded=True)
        for head_dim, dtype in ((64, "bfloat16"), (32, "bfloat16"), (64, "float32")):
            yield replace(main, tokens=200, head_dim=head_dim, dtype=dtype, groups=2)
            yield replace(
                main, form="recurrent", tokens=5, head_dim=head_dim, dtype=dtype, groups=2
            )


def scan_cases(quick: bool, packed: tuple[tuple[int, ...], ...]) -> Iterator[Case]:
    """The state-space scan: what the backend takes, and each training route that may run here."""
    main = Case(op="ssd", head_dim=128, value_dim=64, groups=1)
    yield main
    yield replace(main, form="recurrent", tokens=1)
    for route in ("gla", "products"):
        yield replace(main, tokens=200, route=route)
    if quick:
        return
    for tokens in (1, 63, 1000):
        yield replace(main, tokens=tokens)
    yield replace(main, tokens=1000, groups=2)
    yield replace(main, tokens=1000, state=False)
    for route in (None, "products"):
        yield replace(main, tokens=1000, lengths=packed, state=False, route=route)
        yield replace(main, tokens=1000, lengths=packed, groups=2, route=route)
    yield replace(main, form="recurrent", tokens=64, groups=2)
    for head_dim, value_dim, dtype in ((64, 32, "bfloat16"), (32, 32, "bfloat16")):
        yield replace(main, tokens=200, head_dim=head_dim, value_dim=value_dim, dtype=dtype)
    yield replace(main, tokens=200, head_dim=64, dtype="float32")


@contextmanager
def poisoned_memory(device: torch.device) -> Iterator[None]:
    """Memory that is allocated and not written reads as NaN."""
    torch.cuda.empty_cache()
    for size in (*[2**power for power in range(7, 20)] * 8, *[2**24] * 16):
        blocks = [torch.full((size,), torch.nan, device=device) for _ in range(4)]
        del blocks
    torch.use_deterministic_algorithms(True, warn_only=True)
    # On by default, and only looked at in deterministic mode.
    assert getattr(torch.utils.deterministic, "fill_uninitialized_memory")  # noqa: B009
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def run(form: Any, named: dict[str, Tensor], rest: dict[str, Any], needs_grad: bool) -> Tensors:
    """Outputs, final state and gradients of a fixed random projection of both."""
    leaves = {
        name: x.detach().clone().requires_grad_(needs_grad and name in wanted(named))
        for name, x in named.items()
    }
    copies = {name: x.detach().clone() for name, x in leaves.items()}
    out, state = form(**leaves, **rest)
    found = {"output": out, "final state": state}
    if "valid" in rest:
        found["output"] = out * rest["valid"][:, :, None, None]
    if needs_grad:
        draw = torch.Generator(device=out.device).manual_seed(1)
        total = torch.zeros((), dtype=torch.float64, device=out.device)
        for x in tuple(found.values()):
            weights = torch.randn(x.shape, generator=draw, device=x.device, dtype=torch.float64)
            total = total + (x * weights.to(x.dtype)).double().sum()
        total.backward()
        for name, x in leaves.items():
            if x.requires_grad:
                found[f"gradient of {name}"] = x.grad
    for name, x in leaves.items():
        assert torch.equal(x, copies[name]), f"{name} was written"
    return {name: x.detach().double() for name, x in found.items()}


def wanted(named: dict[str, Tensor]) -> set[str]:
    """Inputs that get a gradient: all but lightning's constant decay."""
    return {name for name, x in named.items() if x.ndim > 1}


def check(case: Case, device: torch.device) -> list[Check]:
    """Run one case on both."""
    named, rest = inputs(case, device), settings(case, device)
    truth = run(
        getattr(REFERENCES.load(case.op), case.form),
        {name: x.double() for name, x in named.items()},
        rest,
        case.needs_grad,
    )
    form = fast_form(case, device, needs_grad=case.needs_grad)
    with poisoned_memory(device):
        ours = run(form, named, rest, case.needs_grad)
    checks = []
    for name, exact in truth.items():
        table = GATE_TOLERANCES if name in GATES else TOLERANCES
        error = float((ours[name] - exact).norm() / exact.norm().clamp_min(1e-30))
        tolerance = table[case.dtype]
        checks.append(
            Check(
                case=case.label(),
                tensor=name,
                error=error,
                tolerance=tolerance,
                passed=error <= tolerance,
            )
        )
    return checks


def limit_tile_sizes(count: int | None) -> None:
    """Let kernels that are defined from now on be tuned among `count` of their configurations.

    For the start of a worker process, before fla is imported; None leaves all.
    """
    if count is None:
        return
    from triton.runtime.autotuner import Autotuner

    initialise = Autotuner.__init__

    def limited(self: Any, fn: Any, arg_names: Any, configs: Any, *rest: Any, **named: Any) -> None:
        step = max(1, len(configs) // count)
        initialise(self, fn, arg_names, configs[step // 2 :: step][:count], *rest, **named)

    Autotuner.__init__ = limited  # type: ignore[method-assign]


def try_cases(cases: list[Case]) -> list[tuple[Case, list[Check] | str, float]]:
    """Each case with its checks, or with what went wrong, and its seconds."""
    warnings.filterwarnings("ignore", message=".*deterministic.*")
    device, found = torch.device("cuda", 0), []
    for case in cases:
        start = time.perf_counter()
        try:
            outcome: list[Check] | str = check(case, device)
        except Exception as error:
            outcome = repr(error)
        found.append((case, outcome, time.perf_counter() - start))
    return found


def alike(cases: list[Case]) -> list[list[Case]]:
    """Cases in groups that compile the same kernels."""
    groups: dict[Case, list[Case]] = {}
    for case in cases:
        same = replace(case, tokens=0, groups=0, lengths=None if not case.lengths else ((0,),))
        groups.setdefault(replace(same, padded=False, beta_range=1.0), []).append(case)
    # What compiles longest starts first, so that several workers end at about the same time.
    return sorted(groups.values(), key=lambda group: _compilation(group[0]))


def _compilation(case: Case) -> tuple[bool, bool, int]:
    """Sorts cases by how long their kernels compile, the longest first."""
    return (not case.needs_grad, case.op != "gated_delta", -case.head_dim)


class Record:
    """The file of results, and its lines on the terminal."""

    def __init__(self, out: Path, cases: list[Case]) -> None:
        self._out = out
        self._content: dict[str, Any] = {
            "command": " ".join(["python", "benchmarks/kernels/verify.py", *sys.argv[1:]]),
            "environment": environment(torch.device("cuda", 0)),
            "cases": len(cases),
            "checks": [],
            "failures": [],
        }
        print(self._content["environment"])
        self.write(passed=False)

    def add(self, case: Case, outcome: list[Check] | str, seconds: float) -> None:
        """One case."""
        if isinstance(outcome, str):
            self._content["failures"].append({"case": case.label(), "error": outcome})
            print(f"FAILED  {case.label()}: {outcome}", flush=True)
            return
        self._content["checks"] += [asdict(found) for found in outcome]
        wrong = [found for found in outcome if not found.passed]
        worst = max(outcome, key=lambda found: found.error / found.tolerance)
        print(
            f"{'WRONG' if wrong else 'ok':7} {case.label():52} worst {worst.tensor} "
            f"{worst.error:.1e} of {worst.tolerance:.0e}  {seconds:6.1f} s",
            flush=True,
        )
        for found in wrong:
            print(f"        {found.tensor}: {found.error:.2e} > {found.tolerance:.0e}")
        self.write(passed=False)

    def finish(self) -> bool:
        """Whether all is well; written last, so that a run which was cut did not pass."""
        checks = self._content["checks"]
        passed = not self._content["failures"] and all(found["passed"] for found in checks)
        self.write(passed=passed)
        print("all passed" if passed else "FAILED", f"({len(checks)} tensors)")
        return passed

    def write(self, *, passed: bool) -> None:
        """Everything so far."""
        write_json(self._out, {**self._content, "passed": passed})


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description="fast kernels against the references")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--op", choices=list(REFERENCES), nargs="+", help="only these operations")
    parser.add_argument("--tile-sizes", type=int, help="of every kernel; all")
    parser.add_argument("--quick", action="store_true", help="one shape per operation")
    parser.add_argument("--workers", type=int, default=1, help="processes that compile and check")
    arguments = parser.parse_args()
    cases = [c for c in all_cases(arguments.quick) if c.op in (arguments.op or REFERENCES)]
    record = Record(arguments.out, cases)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        arguments.workers, spawn, limit_tile_sizes, (arguments.tile_sizes,)
    ) as pool:
        waiting: list[Future[Any]] = [pool.submit(try_cases, group) for group in alike(cases)]
        for done in as_completed(waiting):
            for found in done.result():
                record.add(*found)
    return 0 if record.finish() else 1


if __name__ == "__main__":
    sys.exit(main())
