"""Prefill and decoding by context: attention alone, beside Mamba-2 heads, with a plan inside.

    python speed.py OUT.json [--tiny]

Models of the width of Falcon-H1-0.5B with 12 layers and random weights, bf16 (fp32 with --tiny, on
the CPU). One prefill in pieces of 4096 tokens up to the longest context; at each context the cache
is copied and some tokens are decoded. Times of decoding are medians.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from hydrahead.core.jsonio import write_json
from hydrahead.core.provenance import git_commit, library_versions
from hydrahead.kernels.backend import backends_used
from hydrahead.model.cache import HydraCache
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.falcon_h1_sizes import falcon_h1_config
from hydrahead.model.families.table import FAMILIES
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.make import make_plan
from hydrahead.plan.scores import random_scores

WINDOW = 1024


def configurations(tiny: bool) -> dict[str, HydraConfig]:
    """The arms: name -> configuration with its plan."""
    changes: dict[str, Any] = {"num_hidden_layers": 12, "max_position_embeddings": 262144}
    if tiny:
        changes |= {"num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 64}
        changes |= {"mamba_n_heads": 2, "mamba_d_ssm": 128, "mamba_d_state": 16, "vocab_size": 300}
        changes |= {"num_attention_heads": 4}
    falcon = {**falcon_h1_config("0.5b"), **changes}
    llama = {k: v for k, v in falcon.items() if not k.startswith(("mamba", "ssm"))}
    llama = {k: v for k, v in llama.items() if "multiplier" not in k and k != "architectures"}
    # As many channels mixed by attention alone as by both kinds of heads.
    llama |= {"model_type": "llama", "num_attention_heads": 4 * falcon["num_attention_heads"]}
    found = {}
    for name, config in (("attention", llama), ("parallel", falcon)):
        geometry = ModelGeometry.from_config(config)
        plan = HeadPlan.all_full(geometry)
        found[name] = _with(config, plan)
        scores = random_scores(geometry, seed=0)
        window = f"window:window={16 if tiny else WINDOW},sinks=4"
        planned = make_plan(scores, full_fraction=0.125, linear=window).plan
        found[f"{name}, plan 0.125"] = _with(config, planned)
    return found


def _with(config: dict[str, Any], plan: HeadPlan) -> HydraConfig:
    hydra = HydraConfig(**FAMILIES.load(config["model_type"]).to_hydra(config))
    hydra.plan = json.loads(plan.to_json())
    return hydra


@torch.inference_mode()
def measure(
    config: HydraConfig, contexts: list[int], device: torch.device, dtype: torch.dtype, piece: int
) -> dict[str, Any]:
    """One prefill up to the longest context, decoding at each."""
    with torch.device(device):
        torch.manual_seed(0)
        model = HydraForCausalLM(config).to(dtype).eval()  # type: ignore[arg-type]
    ids = torch.randint(3, config.vocab_size, (1, contexts[-1]), device=device)
    found: dict[str, Any] = {"prefill_seconds": {}, "decode_ms": {}, "cache_bytes": {}}
    for warm in (piece, 1):
        model(ids[:, :warm], past_key_values=HydraCache(), logits_to_keep=1)
    cache, seconds = HydraCache(), 0.0
    for start in range(0, contexts[-1], piece):
        _wait(device)
        begun = time.perf_counter()
        model(ids[:, start : start + piece], past_key_values=cache, logits_to_keep=1)
        _wait(device)
        seconds += time.perf_counter() - begun
        seen = start + piece
        if seen in contexts:
            found["prefill_seconds"][str(seen)] = seconds
            found["cache_bytes"][str(seen)] = cache.nbytes()
            copy, times = cache.fork(), []
            for _ in range(12):
                begun = time.perf_counter()
                model(ids[:, :1], past_key_values=copy, logits_to_keep=1)
                _wait(device)
                times.append(1000 * (time.perf_counter() - begun))
            found["decode_ms"][str(seen)] = statistics.median(times[2:])
    assert (
        found["cache_bytes"][str(contexts[-1])]
        == config.head_plan.cost(
            contexts[-1], kv_dtype=str(dtype).removeprefix("torch.")
        ).total_bytes
    )
    return found


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description="speed by context")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tiny", action="store_true", help="small, on the CPU")
    arguments = parser.parse_args()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    contexts, piece = (
        ([256, 1024, 4096], 256) if arguments.tiny else ([4096, 16384, 65536, 131072], 4096)
    )
    dtype = torch.float32 if arguments.tiny else torch.bfloat16
    record: dict[str, Any] = {
        "git_commit": git_commit(),
        "libraries": library_versions(),
        "device": "cpu" if arguments.tiny else torch.cuda.get_device_name(0),
        "contexts": contexts,
        "piece": piece,
        "arms": {},
    }
    for name, config in configurations(arguments.tiny).items():
        try:
            record["arms"][name] = measure(config, contexts, device, dtype, piece)
        except Exception as error:
            record["arms"][name] = {"error_text": repr(error)[:500]}
        print(name, json.dumps(record["arms"][name]), flush=True)
        record["backends"] = backends_used()
        write_json(arguments.out, record)


if __name__ == "__main__":
    main()
