"""Prefill and decode a long prompt with a converted model and with its teacher.

    python benchmarks/long_context/prefill.py --out docs/results/long_context.json

The checkpoint has the shape of Qwen3-1.7B and random weights: speed and memory do not depend on
what the weights are, and nothing has to be downloaded. It goes through the same verbs as a real
one: random scores, a plan at full_fraction 0.125, convert, load. Times are medians over decoded
tokens, and one prefill.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from hydrahead.core.jsonio import write_json
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.kernels.backend import backends_used
from hydrahead.model.loading import load_model
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores
from hydrahead.transfer.convert import convert

SHAPE: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
}


def random_checkpoint(directory: Path, *, max_positions: int, device: str) -> None:
    """A Qwen3-1.7B-shaped checkpoint with random bfloat16 weights."""
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPE, max_position_embeddings=max_positions)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen3ForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory)


@torch.inference_mode()
def measure(directory: Path, ids: torch.Tensor, *, chunk: int, decode: int) -> dict[str, Any]:
    """Prefill `ids` [1 t] in chunks, then decode greedily."""
    model = load_model(directory, dtype="bfloat16", device=str(ids.device)).eval()
    warm = model(ids[:, :chunk], use_cache=True, logits_to_keep=1)
    model(ids[:, :chunk], past_key_values=warm.past_key_values, use_cache=True, logits_to_keep=1)
    model(ids[:, :1], past_key_values=warm.past_key_values, use_cache=True, logits_to_keep=1)
    del warm
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    weights = torch.cuda.memory_allocated()
    started = time.perf_counter()
    cache = None
    for start in range(0, ids.shape[1], chunk):
        output = model(
            ids[:, start : start + chunk],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
    torch.cuda.synchronize()
    prefill = time.perf_counter() - started
    peak = torch.cuda.max_memory_allocated()
    steps: list[float] = []
    token = output.logits[:, -1:].argmax(-1)
    for _ in range(decode):
        started = time.perf_counter()
        output = model(token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        token = output.logits[:, -1:].argmax(-1)
        torch.cuda.synchronize()
        steps.append(time.perf_counter() - started)
    finite = bool(output.logits.isfinite().all())
    plan = model.config.head_plan
    context = ids.shape[1] + decode
    cost = plan.cost(context)
    result = {
        "full_fraction": plan.full_fraction,
        "prompt_tokens": ids.shape[1],
        "prefill_chunk": chunk,
        "prefill_seconds": prefill,
        "prefill_tokens_per_second": ids.shape[1] / prefill,
        "decode_tokens": decode,
        "decode_ms_median": 1e3 * statistics.median(steps),
        "decode_ms_p95": 1e3 * sorted(steps)[int(0.95 * len(steps))],
        "weights_bytes": weights,
        "peak_bytes_over_weights": peak - weights,
        "cache_bytes": cache.nbytes(),
        "planned_cache_bytes": cost.kv_bytes + cost.state_bytes,
        "logits_finite": finite,
    }
    del model, cache, output
    torch.cuda.empty_cache()
    return result


def main() -> None:
    """Make the checkpoint, convert it, measure both, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--chunk", type=int, default=8192)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--full-fraction", type=float, default=0.125)
    parser.add_argument("--work", type=Path, default=None)
    arguments = parser.parse_args()
    work = arguments.work or Path(tempfile.mkdtemp())
    teacher = work / "teacher"
    random_checkpoint(teacher, max_positions=2 * arguments.tokens, device="cuda")
    geometry = ModelGeometry.from_pretrained(teacher)
    planned = make_plan(random_scores(geometry, 0), full_fraction=arguments.full_fraction)
    started = time.perf_counter()
    hybrid = convert(teacher, planned.plan, work / "hybrid")
    convert_seconds = time.perf_counter() - started
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, SHAPE["vocab_size"], (1, arguments.tokens), generator=generator)
    arms = {
        name: measure(directory, ids.cuda(), chunk=arguments.chunk, decode=arguments.decode)
        for name, directory in (("hybrid", hybrid), ("teacher", teacher))
    }
    ratios = {
        key: arms["teacher"][key] / arms["hybrid"][key]
        for key in ("prefill_seconds", "decode_ms_median", "cache_bytes")
    }
    result = {
        "command": " ".join(sys.argv),
        "git_commit": git_commit(),
        "versions": library_versions(),
        "device": torch.cuda.get_device_name(),
        "dtype": "bfloat16",
        "seed": 0,
        "n": {"prefill": 1, "decode": arguments.decode},
        "backends": dict(backends_used()),
        "convert_seconds": convert_seconds,
        "arms": arms,
        "teacher_over_hybrid": ratios,
    }
    write_json(arguments.out, result)
    for key, value in {**arms, "teacher / hybrid": ratios}.items():
        print(key, value)


if __name__ == "__main__":
    main()
