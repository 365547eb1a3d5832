"""Small random hybrids for the conformance suite: every entry of the mixer table, alone and mixed.

A new mixer is in `SPECS` by its table line: its defaults, and one variant with every switch turned.
Required settings get small numbers; a spec that needs better ones has a class method `examples`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import torch
from pydantic import ValidationError
from torch import Tensor

from hydrahead.model.configuration import HydraConfig
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.head_plan import HeadPlan, LayerPlan
from hydrahead.plan.presets import preset_specs
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.specs.full import FullSpec
from hydrahead.plan.table import MIXERS, spec_class

GEOMETRY = ModelGeometry(
    family="qwen3",
    num_layers=2,
    num_q_heads=6,
    num_kv_heads=2,
    head_dim=8,
    hidden_size=32,
    intermediate_size=40,
    vocab_size=61,
    max_positions=256,
    layer_windows=(None, None),
    tie_word_embeddings=False,
)
"""Groups of three, so that a plan by q_heads can leave groups of one and of two behind."""


def example_specs(name: str) -> list[MixerSpec]:
    """Settings of one mixer to try: its examples, else its defaults and every switch turned."""
    kind = spec_class(name)
    examples: Callable[[], list[MixerSpec]] | None = getattr(kind, "examples", None)
    if examples is not None:
        return list(examples())
    required = {key: 5 for key, field in kind.model_fields.items() if field.is_required()}
    base = kind(**required)
    turned: dict[str, Any] = dict(required)
    for key, field in kind.model_fields.items():
        value = getattr(base, key)
        if isinstance(value, bool) and key != "qk_norm":
            turned[key] = not value
        elif value is None and float in get_args(field.annotation):
            turned[key] = 7.0
        elif isinstance(value, int) and key not in required:
            turned[key] = _smallest(kind, required, key, value)
    return [base, kind(**turned)]


def _smallest(kind: type[MixerSpec], required: Mapping[str, Any], key: str, value: int) -> int:
    for candidate in (0, 1, 2):
        try:
            kind(**{**required, key: candidate})
        except ValidationError:
            continue
        return candidate
    return value


SPECS: dict[str, MixerSpec] = {
    f"{name}-{index}": spec for name in MIXERS for index, spec in enumerate(example_specs(name))
}


def _slot_specs() -> dict[str, MixerSpec]:
    return {name: spec for name, spec in SPECS.items() if spec.takes_slots}


def _parallel_specs() -> dict[str, MixerSpec]:
    return {name: spec for name, spec in SPECS.items() if not spec.takes_slots}


def beside(plan: HeadPlan, *specs: MixerSpec) -> HeadPlan:
    """`plan` with parallel mixers in every layer."""
    layers = tuple(LayerPlan(units=layer.units, parallel=specs) for layer in plan.layers)
    return HeadPlan(geometry=plan.geometry, unit=plan.unit, layers=layers)


def plans(geometry: ModelGeometry = GEOMETRY) -> Iterator[tuple[str, HeadPlan]]:
    """Every mixer on all heads, beside full attention by kv_heads and by q_heads, and all mixed."""
    for name, spec in _slot_specs().items():
        yield f"{name}-everywhere", HeadPlan.uniform(geometry, spec)
    for name in MIXERS:
        spec = SPECS[f"{name}-0"]
        if not spec.takes_slots or name == "full":
            continue
        for preset in ("plain", "paper"):
            full, other = preset_specs(preset, spec)
            yield f"{name}-{preset}-kv_head", _rotating(geometry, "kv_head", (full, other))
            yield f"{name}-{preset}-q_head", _rotating(geometry, "q_head", (full, other, other))
    for name, spec in _parallel_specs().items():
        yield f"{name}-everywhere", beside(HeadPlan.all_full(geometry), spec)
    everything = (FullSpec(), *(spec for spec in _slot_specs().values() if spec != FullSpec()))
    yield "everything-q_head", _rotating(geometry, "q_head", everything)
    parallel = list(_parallel_specs().values())[1:3]
    yield "everything-parallel", beside(_rotating(geometry, "kv_head", everything[1:]), *parallel)
    windows = (3, *geometry.layer_windows[1:])
    own = geometry.model_copy(update={"layer_windows": windows})
    yield "own-window", HeadPlan.uniform(own, SPECS["gated_delta-0"])


def _rotating(geometry: ModelGeometry, unit: Any, specs: tuple[MixerSpec, ...]) -> HeadPlan:
    """The specs in turn over the units, going on where the layer before stopped."""
    count = geometry.units_per_layer(unit)
    layers = tuple(
        LayerPlan(units=tuple(specs[(layer * count + i) % len(specs)] for i in range(count)))
        for layer in range(geometry.num_layers)
    )
    return HeadPlan(geometry=geometry, unit=unit, layers=layers)


PLANS: dict[str, HeadPlan] = dict(plans())
MIXED = {name: plan for name, plan in PLANS.items() if "everywhere" not in name}
"""Fewer, for laws whose work lies outside the mixers."""


def hydra_config(plan: HeadPlan, **changes: Any) -> HydraConfig:
    """A configuration of the plan's geometry; Qwen3-like, with q, k and v biases as well."""
    sizes = plan.geometry
    settings: dict[str, Any] = {
        "family": sizes.family,
        "vocab_size": sizes.vocab_size,
        "hidden_size": sizes.hidden_size,
        "intermediate_size": sizes.intermediate_size,
        "num_hidden_layers": sizes.num_layers,
        "num_attention_heads": sizes.num_q_heads,
        "num_key_value_heads": sizes.num_kv_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": sizes.max_positions,
        "tie_word_embeddings": sizes.tie_word_embeddings,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "attention_bias": True,
        "qk_norm": True,
        "initializer_range": 0.2,
        "plan": json.loads(plan.to_json()),
    }
    return HydraConfig(**{**settings, **changes})


def tiny_hybrid(
    plan: HeadPlan,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    attn_implementation: str = "sdpa",
    **changes: Any,
) -> HydraForCausalLM:
    """A hybrid whose every parameter is random, gates and norms included."""
    torch.manual_seed(seed)
    model = HydraForCausalLM._from_config(
        hydra_config(plan, **changes), attn_implementation=attn_implementation
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # Also what starts from constants: a law must not hold only at the start.
            spread = 0.1 if parameter.ndim == 2 else 0.3
            parameter.add_(spread * torch.randn_like(parameter))
    return model.to(dtype).eval()


def tokens(rows: int = 2, length: int = 23, seed: int = 1) -> Tensor:
    """Random ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, GEOMETRY.vocab_size, (rows, length), generator=generator)


def left_padded(lengths: tuple[int, ...] = (23, 16, 9), seed: int = 1) -> tuple[Tensor, Tensor]:
    """ids and mask of rows that end together; what lies in the padding is random."""
    ids = tokens(len(lengths), max(lengths), seed)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return ids, mask


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    """Equal up to `tolerance` times the largest expected value (or 1)."""
    bound = tolerance * max(1.0, expected.abs().max().item())
    assert actual.shape == expected.shape
    assert torch.isfinite(actual).all()
    assert (actual - expected).abs().max().item() <= bound
