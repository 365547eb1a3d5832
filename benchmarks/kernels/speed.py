"""How fast the fast kernels are: against the reference, and against what the GPU can do.

    python benchmarks/kernels/speed.py --verified verify.json --out speed.json

Runs only if `verify.py` passed for the same device, libraries and commit. Times are medians of
single calls between CUDA events, after warm-up. Two floors are given: bytes that must move (each
input read and each output written once) over --copy-tb-s, and arithmetic of the chunked algorithm
over --matmul-tflop-s; defaults are what one H200 was measured at.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from cases import Case, environment, fast_form, inputs, settings

from hydrahead.core.jsonio import read_json, write_json
from hydrahead.kernels.backend import REFERENCES
from hydrahead.kernels.kernel import KernelForm

CHUNK = 64
HEADS = 14


def all_cases() -> list[Case]:
    """14 heads of 128, as measured for the design; decoding one token."""
    cases = []
    for op in ("gated_delta", "lightning"):
        main = Case(op=op, heads=HEADS, groups=HEADS, batch=1)
        cases += [replace(main, tokens=tokens) for tokens in (8192, 32768, 131072)]
        cases += [replace(main, tokens=32768, groups=HEADS // 2)]
        cases += [replace(main, form="recurrent", tokens=1, batch=batch) for batch in (1, 64)]
    return cases + scan_cases()


def scan_cases() -> list[Case]:
    """Falcon-H1-0.5B's heads: 24 of 64 with a state of 128 in one group; every training route."""
    main = Case(op="ssd", head_dim=128, value_dim=64, heads=24, groups=1, batch=1)
    cases = [replace(main, tokens=tokens) for tokens in (8192, 32768, 131072)]
    cases += [replace(main, tokens=8192, route=route) for route in ("gla", "products")]
    tiny = replace(main, head_dim=64, value_dim=32, tokens=512, batch=64)
    cases += [replace(tiny, route=route) for route in ("gla", "products")]
    cases += [replace(tiny, dtype="float32", route=route) for route in ("simple_gla", "products")]
    return cases + [replace(main, form="recurrent", tokens=1, batch=batch) for batch in (1, 64)]


def floor_bytes(case: Case, backward: bool) -> int:
    """Bytes in and out; backward reads inputs and output gradients, writes input gradients."""
    size = case.torch_dtype.itemsize
    rows = case.batch * case.tokens
    if case.op == "ssd":
        width = case.value_dim or case.head_dim
        values = rows * case.heads * width * size
        reads = rows * 2 * case.groups * case.head_dim * size + values
        gates, states = (
            rows * case.heads * 4,
            2 * case.batch * case.heads * case.head_dim * width * 4,
        )
        forward = reads + gates + values + states
        return forward + (2 * (reads + gates) + values + 2 * states if backward else 0)
    reads = rows * case.head_dim * (case.heads + 2 * case.groups) * size
    gates = rows * case.groups * 8 if case.op == "gated_delta" else 0
    out = rows * case.head_dim * case.heads * size
    states = 2 * case.batch * case.groups * case.head_dim**2 * 4
    forward = reads + gates + out + states
    return forward + (2 * (reads + gates) + out + 2 * states if backward else 0)


def floor_flops(case: Case, backward: bool) -> int:
    """Matrix products of the chunked form, per group and token, times 3.5 with a backward pass.

    Scores and outputs of a chunk: 4 * CHUNK * e per q_head. State read (2 e^2) per q_head, and
    written (2 e^2) per group. The delta rule adds keys with keys, the inverse applied to keys and
    values (6 * CHUNK * e), the inverse itself (CHUNK^2 / 3) and the state read by keys (2 e^2).
    """
    e, tokens = case.head_dim, case.batch * case.tokens
    if case.op == "ssd":
        # Scores once per group; per head the values within a chunk, and the state read and written.
        width = case.value_dim or e
        per_head = 4 * e * width + (0 if case.form == "recurrent" else 2 * CHUNK * width)
        shared = 0 if case.form == "recurrent" else 2 * CHUNK * e * case.groups
        return int(tokens * (per_head * case.heads + shared) * (3.5 if backward else 1))
    if case.form == "recurrent":
        return tokens * (2 * e * e * case.heads + (5 if case.op == "gated_delta" else 3) * e * e)
    per_head = 4 * CHUNK * e + 2 * e * e
    per_group = 2 * e * e
    if case.op == "gated_delta":
        per_group += 6 * CHUNK * e + CHUNK * CHUNK // 3 + 2 * e * e
    forward = tokens * (per_head * case.heads + per_group * case.groups)
    return int(forward * (3.5 if backward else 1))


def median_ms(call: Callable[[], None], runs: int) -> float:
    """Median time of one call between CUDA events."""
    for _ in range(3):
        call()
    times = []
    for _ in range(runs):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        stop.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(stop))
    return statistics.median(times)


def measure(form: KernelForm, case: Case, device: torch.device, backward: bool, runs: int) -> float:
    """Median milliseconds of forward, or of forward and backward."""
    named, rest = inputs(case, device), settings(case, device)
    leaves = {name: x.requires_grad_(backward and x.ndim > 1) for name, x in named.items()}
    size = (case.batch, case.tokens, case.heads, case.value_dim or case.head_dim)
    weights = torch.randn(size, device=device, dtype=case.torch_dtype)

    def call() -> None:
        with torch.set_grad_enabled(backward):
            out, _ = form(**leaves, **rest)
            if backward:
                out.backward(weights)
                for x in leaves.values():
                    x.grad = None

    return median_ms(call, runs)


def main() -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(description="speed of the fast kernels")
    parser.add_argument("--verified", type=Path, required=True, help="JSON written by verify.py")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--copy-tb-s", type=float, default=4.2, help="copy bandwidth, TB/s")
    parser.add_argument("--matmul-tflop-s", type=float, default=752.0, help="bf16, TFLOP/s")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--op", choices=list(REFERENCES), help="only this operation")
    parser.add_argument("--longest-reference", type=int, default=32768, help="tokens")
    arguments = parser.parse_args()
    device = torch.device("cuda", 0)
    verified, here = read_json(arguments.verified), dict(environment(device))
    if not verified["passed"]:
        print(f"{arguments.verified} did not pass: wrong results have no speed")
        return 1
    if verified["environment"] != here:
        print(f"{arguments.verified} is from elsewhere: {verified['environment']}, here {here}")
        return 1
    rows = []
    for case in all_cases():
        if arguments.op not in (None, case.op):
            continue
        for backward in (False, True) if case.needs_grad and case.tokens <= 32768 else (False,):
            form = fast_form(case, device, needs_grad=backward)
            fast = measure(form, case, device, backward, arguments.runs)
            slow = None
            if case.tokens <= arguments.longest_reference:
                reference = getattr(REFERENCES.load(case.op), case.form)
                slow = measure(reference, case, device, backward, 3)
            moved, done = floor_bytes(case, backward), floor_flops(case, backward)
            row = {
                "case": case.label(),
                "batch": case.batch,
                "backward": backward,
                "fast_ms": fast,
                "reference_ms": slow,
                "speed_up": None if slow is None else slow / fast,
                "tb_per_s": moved / fast / 1e9,
                "share_of_copy": moved / fast / 1e9 / arguments.copy_tb_s,
                "tflop_per_s": done / fast / 1e9,
                "share_of_matmul": done / fast / 1e9 / arguments.matmul_tflop_s,
                "settings": asdict(case),
            }
            rows.append(row)
            ratio = "" if slow is None else f"{slow / fast:7.1f}x the reference"
            print(
                f"{case.label():46} b{case.batch:<3}{'fwd+bwd' if backward else 'fwd':8}"
                f"{fast:9.3f} ms {row['tb_per_s']:6.2f} TB/s ({row['share_of_copy']:4.0%}) "
                f"{row['tflop_per_s']:6.1f} TFLOP/s ({row['share_of_matmul']:4.0%}) {ratio}",
                flush=True,
            )
            write_json(arguments.out, {"environment": here, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
