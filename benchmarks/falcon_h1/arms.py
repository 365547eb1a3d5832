"""The models of the Falcon-H1 study: ways to mix tokens, at equal parameters.

All have the same layers, width and vocabulary and, but for `mamba2`, the same kv_heads, so an equal
key-value cache; the MLP's width makes up for what the mixers differ in.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from hydrahead.model.configuration import HydraConfig
from hydrahead.model.families.falcon_h1_start import start_mamba_heads_
from hydrahead.model.families.table import FAMILIES
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.specs.gated_delta import GatedDeltaSpec
from hydrahead.plan.specs.mamba2 import Mamba2Spec
from hydrahead.plan.specs.window import WindowSpec

KV_HEADS = 4
WINDOW, SINKS = 32, 4
"""Of the heads that are not full, from the start or in the sweep."""
REFERENCE_MLP = 320
"""MLP width of the attention-only arm; the others' follow from it."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """What every arm shares."""

    layers: int = 4
    hidden: int = 128
    head_dim: int = 32
    state: int = 32
    vocab: int = 3072
    positions: int = 2048


def _llama(size: Size, q_heads: int, kv_heads: int, head_dim: int, mlp: int) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": size.vocab,
        "hidden_size": size.hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": size.layers,
        "num_attention_heads": q_heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": size.positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "rms_norm_eps": 1e-5,
        "initializer_range": size.hidden**-0.5,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
    }


def _falcon(size: Size, mlp: int) -> dict[str, Any]:
    return {
        **_llama(size, KV_HEADS, KV_HEADS, size.head_dim, mlp),
        "model_type": "falcon_h1",
        "mamba_d_ssm": KV_HEADS * size.head_dim,
        "mamba_n_heads": KV_HEADS,
        "mamba_d_head": size.head_dim,
        "mamba_d_state": size.state,
        "mamba_norm_before_gate": False,
    }


def _attention(size: Size, mlp: int) -> tuple[dict[str, Any], HeadPlan]:
    config = _llama(size, 2 * KV_HEADS, KV_HEADS, size.head_dim, mlp)
    return config, HeadPlan.all_full(ModelGeometry.from_config(config))


def _parallel(size: Size, mlp: int) -> tuple[dict[str, Any], HeadPlan]:
    config = _falcon(size, mlp)
    return config, HeadPlan.all_full(ModelGeometry.from_config(config))


def _mamba2(size: Size, mlp: int) -> tuple[dict[str, Any], HeadPlan]:
    """A model of ours needs an attention head: one of width 8 that sees nothing but its own token.

    Its value is a linear map of rank 8 of that token; it cannot move anything between tokens.
    """
    config = _llama(size, 1, 1, 8, mlp)
    spec = Mamba2Spec(heads=2 * KV_HEADS, head_dim=size.head_dim, state_size=size.state)
    layer = LayerPlan(units=(WindowSpec(window=1, sinks=0),), parallel=(spec,))
    geometry = ModelGeometry.from_config(config)
    return config, HeadPlan(geometry=geometry, layers=(layer,) * size.layers)


def _keeping(plan: HeadPlan, full: Mapping[int, int], other: MixerSpec) -> HeadPlan:
    """An all-full plan with one kv_head full in each layer named, the rest `other`."""
    layers = []
    for index, layer in enumerate(plan.layers):
        units = [other] * len(layer.units)
        if index in full:
            units[full[index]] = FullSpec()
        layers.append(LayerPlan(units=tuple(units), parallel=layer.parallel))
    return HeadPlan(geometry=plan.geometry, layers=tuple(layers))


def _gated_delta(size: Size, mlp: int) -> tuple[dict[str, Any], HeadPlan]:
    """As HydraHead mixes them: one kv_head in four full, in turn over the layers."""
    config, plan = _attention(size, mlp)
    turns = {layer: layer % KV_HEADS for layer in range(size.layers)}
    return config, _keeping(plan, turns, GatedDeltaSpec())


def _planned(
    full_layers: tuple[int, ...],
) -> Callable[[Size, int], tuple[dict[str, Any], HeadPlan]]:
    """Both kinds of heads, with windows from the start: one full kv_head in each layer named."""

    def describe(size: Size, mlp: int) -> tuple[dict[str, Any], HeadPlan]:
        config, plan = _parallel(size, mlp)
        window = WindowSpec(window=WINDOW, sinks=SINKS)
        return config, _keeping(plan, dict.fromkeys(full_layers, 0), window)

    return describe


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to mix, and how its Mamba-2 heads start."""

    describe: Callable[[Size, int], tuple[dict[str, Any], HeadPlan]]
    start: str = "steps"


ARMS: Mapping[str, Arm] = {
    "attention": Arm(describe=_attention),
    "parallel": Arm(describe=_parallel),
    "mamba2": Arm(describe=_mamba2),
    "gated_delta": Arm(describe=_gated_delta),
    "parallel_hf_start": Arm(describe=_parallel, start="transformers"),
    "parallel_plan": Arm(describe=_planned((1, 3))),
    "parallel_windows": Arm(describe=_planned(())),
}
SWEPT = ("attention", "parallel")
"""Arms whose full heads are given away afterwards."""
FROM_TEACHER = ("attention", "parallel", "gated_delta")
"""Arms of the CPU size: what the bundled teacher's heads that are not full become or gain."""


def teacher_plan(arm: str, chosen: HeadPlan) -> HeadPlan:
    """The plan of an arm of the CPU size.

    Args:
        arm: Of `FROM_TEACHER`; "parallel" puts as many Mamba-2 heads beside every layer's
            attention as it has kv_heads, of their width. They start with an output of zero.
        chosen: Which heads are full, and what the others are.
    """
    if arm != "parallel":
        return chosen
    geometry = chosen.geometry
    width = geometry.head_dim
    beside = Mamba2Spec(heads=geometry.num_kv_heads, head_dim=width, state_size=width)
    layers = tuple(LayerPlan(units=layer.units, parallel=(beside,)) for layer in chosen.layers)
    return HeadPlan(geometry=geometry, layers=layers, unit=chosen.unit)


def configuration(arm: str, size: Size, mlp: int) -> HydraConfig:
    """The configuration of an arm, with its plan inside."""
    config, plan = ARMS[arm].describe(size, mlp)
    hydra = HydraConfig(**FAMILIES.load(config["model_type"]).to_hydra(config))
    hydra.plan = json.loads(plan.to_json())
    return hydra


def num_parameters(arm: str, size: Size, mlp: int) -> int:
    """Parameters of an arm, tied embeddings once."""
    with torch.device("meta"):
        model = HydraForCausalLM(configuration(arm, size, mlp))
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


def matched_mlp(arm: str, size: Size) -> int:
    """The MLP width at which the arm has as many parameters as attention alone has."""
    wanted = num_parameters("attention", size, REFERENCE_MLP)
    per_channel = 3 * size.hidden * size.layers
    return max(
        8, REFERENCE_MLP + round((wanted - num_parameters(arm, size, REFERENCE_MLP)) / per_channel)
    )


def build(arm: str, size: Size, seed: int) -> HydraForCausalLM:
    """A fresh model, float32."""
    torch.manual_seed(1000 + seed)
    model = HydraForCausalLM(configuration(arm, size, matched_mlp(arm, size)))
    start_mamba_heads_(model, ARMS[arm].start)  # type: ignore[arg-type]
    return model
