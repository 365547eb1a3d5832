"""A Falcon-H1 from scratch: how its parameters start.

The model is built as a hybrid of ours, because transformers' own class has no fast path without
source builds and leaks between packed documents; `export` writes it back as the family's.

Two starts, which differ in the Mamba-2 heads alone:

- "transformers": as its class does it. A = 1 .. heads, dt = softplus(1) = 1.31, convolutions from
  the normal distribution of every other weight. The slowest head forgets within a token.
- "steps": Mamba-2's own (arXiv 2405.21060). dt log-uniform in 1e-3 .. 1e-1, A uniform in 1 .. 16,
  convolutions uniform within 1 / sqrt(taps).
"""

import math
from typing import Any, Literal

import torch

from hydrahead.mixers.mamba2 import Mamba2Mixer
from hydrahead.mixers.state_gates import LONGEST_STEP, SHORTEST_STEP, bias_of_steps
from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.all_full import with_plan
from hydrahead.model.families.falcon_h1 import FAMILY
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan

Start = Literal["transformers", "steps"]
LARGEST_A = 16.0
"""Decay rates of the start "steps" are drawn between 1 and this."""


def build_falcon(
    config: dict[str, Any], *, start: Start, seed: int, plan: HeadPlan | None = None
) -> HydraForCausalLM:
    """A freshly initialised Falcon-H1 of a config.json, float32.

    Args:
        config: config.json of the family.
        start: How the Mamba-2 heads start.
        seed: Of everything random.
        plan: For its geometry; None is every attention head full.

    Raises:
        HydraHeadError: a contradictory config.json, or a plan for another geometry.
    """
    geometry = ModelGeometry.from_config(config)
    if plan is not None:
        plan.require_geometry(geometry)
    hydra = HydraConfig(**FAMILY.to_hydra(config))
    with_plan(hydra, plan or HeadPlan.all_full(geometry))
    torch.manual_seed(seed)
    model = HydraForCausalLM(hydra)
    start_mamba_heads_(model, start)
    return model


@torch.no_grad()
def start_mamba_heads_(model: HydraForCausalLM, start: Start) -> None:
    """Give every Mamba-2 head its start; draws from torch's global generator, changes `model`."""
    for module in model.modules():
        if isinstance(module, Mamba2Mixer):
            _start_one_(module, start, model.config.initializer_range)


def _start_one_(mixer: Mamba2Mixer, start: Start, spread: float) -> None:
    gates, weight = mixer.gates, mixer.conv.weight
    heads = gates.A_log.shape[0]
    if mixer.conv.bias is not None:
        mixer.conv.bias.zero_()
    gates.D.fill_(1.0)
    match start:
        case "transformers":
            gates.A_log.copy_(torch.arange(1, heads + 1, dtype=torch.float32).log())
            gates.dt_bias.fill_(1.0)
            weight.normal_(std=spread)
        case "steps":
            low, high = math.log(SHORTEST_STEP), math.log(LONGEST_STEP)
            gates.dt_bias.copy_(bias_of_steps(torch.empty(heads).uniform_(low, high).exp()))
            gates.A_log.copy_(torch.empty(heads).uniform_(1.0, LARGEST_A).log())
            bound = weight.shape[-1] ** -0.5
            weight.uniform_(-bound, bound)
