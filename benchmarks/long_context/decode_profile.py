"""Where a decoded token's time goes on a GPU: operators of hybrid and teacher, by host time.

    python benchmarks/long_context/decode_profile.py [--layers 8] [--tokens 4096]

Random weights in the shape of Qwen3-1.7B, fewer layers. At 128K tokens (docs/results) the hybrid
decodes slower than its teacher; this is the first thing to run about it.
"""

import argparse
import tempfile
import time
from pathlib import Path

import prefill
import torch
from torch.profiler import ProfilerActivity, profile

from hydrahead.model.loading import load_model
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores
from hydrahead.transfer.convert import convert

STEPS = 20


@torch.inference_mode()
def show(name: str, directory: Path, tokens: int) -> None:
    """Milliseconds per token, then the operators of one step."""
    model = load_model(directory, dtype="bfloat16", device="cuda").eval()
    ids = torch.randint(0, 1000, (1, tokens), device="cuda")
    cache = model(ids, use_cache=True, logits_to_keep=1).past_key_values
    token = ids[:, :1]

    def step() -> None:
        model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)

    for _ in range(STEPS // 2):
        step()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    print(name, f"{(time.perf_counter() - started) / STEPS * 1e3:.2f} ms per token")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=20))


def main() -> None:
    """Make the checkpoint, convert it, show both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=4096)
    arguments = parser.parse_args()
    prefill.SHAPE["num_hidden_layers"] = arguments.layers
    work = Path(tempfile.mkdtemp())
    teacher = work / "teacher"
    prefill.random_checkpoint(teacher, max_positions=2 * arguments.tokens, device="cuda")
    scores = random_scores(ModelGeometry.from_pretrained(teacher), 0)
    hybrid = convert(teacher, make_plan(scores, full_fraction=0.125).plan, work / "hybrid")
    show("teacher", teacher, arguments.tokens)
    show("hybrid", hybrid, arguments.tokens)


if __name__ == "__main__":
    main()
