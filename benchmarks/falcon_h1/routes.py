"""Which training route of the state-space scan is right, and which is fastest, on this GPU.

    python routes.py OUT.json [SHAPE]

At the study's shape and at that of Falcon-H1-0.5B; forward and backward, bf16, against the
reference in fp64. Written after every measurement: a route that does not compile in time is left
out by whoever reads it.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hydrahead.core.jsonio import write_json
from hydrahead.kernels.gpu_stack import detect_stack
from hydrahead.kernels.refusals import is_known_wrong
from hydrahead.kernels.ssd.fast import ROUTES
from hydrahead.kernels.ssd.reference import ssd_chunked

SHAPES = {
    "study": {"batch": 64, "tokens": 256, "groups": 1, "heads": 4, "state": 32, "width": 32},
    "0.5b": {"batch": 1, "tokens": 8192, "groups": 1, "heads": 24, "state": 128, "width": 64},
}
TOLERANCE = 0.02
ORDER = (("study", "products"), ("study", "gla"), ("0.5b", "products"), ("0.5b", "gla"))


def inputs(shape: dict[str, int], device: torch.device) -> dict[str, torch.Tensor]:
    """Memories of 1 to 1000 tokens."""
    draw = torch.Generator(device=device).manual_seed(0)
    b, t, n, h = (shape[key] for key in ("batch", "tokens", "groups", "heads"))
    e, p = shape["state"], shape["width"]

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, device=device)

    found = {"q": normal(b, t, n, e), "k": normal(b, t, n, e), "v": normal(b, t, h, p)}
    found = {name: (x / e**0.25).bfloat16() for name, x in found.items()}
    decay = -(10.0 ** (-3 * torch.rand(b, t, h, generator=draw, device=device)))
    return found | {"log_decay": decay}


def run(route: Any, named: dict[str, torch.Tensor], weights: torch.Tensor) -> list[torch.Tensor]:
    """Outputs and gradients."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in named.items()}
    out, _ = route(**leaves, scale=1.0)
    found = torch.autograd.grad((out * weights.to(out.dtype)).sum(), list(leaves.values()))
    return [out.detach(), *found]


def measure(shape: dict[str, int], name: str, device: torch.device) -> dict[str, Any]:
    """Error against fp64 on a part of the rows, and the median time."""
    named = inputs(shape, device)
    weights = torch.randn(named["v"].shape, device=device)
    few = {key: x[:2, :512] for key, x in named.items()}
    truth = run(ssd_chunked, {key: x.double() for key, x in few.items()}, weights[:2, :512])
    started = time.perf_counter()
    ours = run(ROUTES[name], few, weights[:2, :512])
    error = max(float((a.double() - b).norm() / b.norm()) for a, b in zip(ours, truth, strict=True))
    run(ROUTES[name], named, weights)
    torch.cuda.synchronize()
    compiled = time.perf_counter() - started
    times = []
    for _ in range(10):
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        run(ROUTES[name], named, weights)
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last))
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(ROUTES[name], named, weights)
    peak = torch.cuda.max_memory_allocated() - before
    return {
        "error": error,
        "right": error < TOLERANCE,
        "first_call_seconds": compiled,
        "milliseconds": statistics.median(times),
        "peak_bytes": peak,
    }


def main() -> None:
    """See the module's text."""
    out, device = Path(sys.argv[1]), torch.device("cuda", 0)
    stack = detect_stack(device)
    record: dict[str, Any] = {"stack": str(stack), "shapes": SHAPES, "measured": {}}
    record["simple_gla_wrong_in_bf16"] = is_known_wrong("simple_gla", torch.bfloat16, stack)
    for shape, name in (pair for pair in ORDER if pair[0] in (sys.argv[2:] or SHAPES)):
        try:
            found = measure(SHAPES[shape], name, device)
        except Exception as error:
            found = {"error_text": repr(error)[:500], "right": False}
        record["measured"][f"{shape}/{name}"] = found
        print(shape, name, json.dumps(found), flush=True)
        write_json(out, record)


if __name__ == "__main__":
    main()
