"""How far back the full-attention heads look: attention by distance, layer by layer.

Only the last rows of a prompt are looked at: there the question stands, and whatever it needs from
far away has to be fetched. Our own models tell queries and keys through their taps, so nothing of
size t x t is formed; any other model of transformers is run with eager attention, which returns its
weights, one prompt at a time.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from hydrahead.core.errors import HydraHeadError
from hydrahead.mixers.attention_base import AttentionMixer
from hydrahead.model.modeling import HydraForCausalLM
from hydrahead.scoring.row_attention import row_weights, visible
from hydrahead.transfer.surgery_units import kind_of

EDGES = (0, 4, 16, 64, 256, 1024, 4096, 16384)
"""Lower ends of the distance bins, in tokens."""


class LayerAttention(BaseModel):
    """Where the full-attention q_heads of one layer look, on average."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int
    mean_distance: float
    """Tokens, under the attention of the rows looked at."""
    shares: tuple[float, ...]
    """Of the attention, per bin of `EDGES`."""


def attention_distance(
    model: Any, prompts: Sequence[Sequence[int]], *, layers: Sequence[int], rows: int = 64
) -> tuple[LayerAttention, ...]:
    """Attention by distance of the last `rows` tokens of each prompt.

    Args:
        model: A hybrid of ours, or a transformers model that was loaded with eager attention.
        prompts: Token ids.
        layers: Those with full-attention units.
        rows: Tokens at the end of each prompt whose queries are looked at.

    Raises:
        HydraHeadError: a layer whose attention weights the model does not hand out.
    """
    reader = _ours if isinstance(model, HydraForCausalLM) else _theirs
    longest = max(map(len, prompts))
    mass = {layer: torch.zeros(longest, dtype=torch.float64) for layer in layers}
    for prompt in prompts:
        for layer, weights in reader(model, prompt, layers, min(rows, len(prompt))).items():
            mass[layer] += _by_distance(weights, longest)
    return tuple(_summary(layer, mass[layer]) for layer in layers)


@torch.no_grad()
def _ours(
    model: HydraForCausalLM, prompt: Sequence[int], layers: Sequence[int], rows: int
) -> Mapping[int, Float[Tensor, "r h s"]]:
    """Weights of every layer's full mixers, their q_heads side by side."""
    device = model.lm_head.weight.device
    found: dict[int, list[AttentionMixer]] = {}
    for layer in layers:
        mixers: Any = model.model.layers[layer].get_submodule("self_attn.mixers")
        found[layer] = [
            mixer
            for mixer in mixers
            if isinstance(mixer, AttentionMixer) and kind_of(mixer.spec) == "full"
        ]
    kept: dict[tuple[int, int, str], Tensor] = {}
    with ExitStack() as stack:
        for layer, mixers in found.items():
            for number, mixer in enumerate(mixers):
                for name, tap in (("query", mixer.query_tap), ("key", mixer.key_tap)):
                    hook = _keeper(kept, (layer, number, name))
                    stack.callback(tap.register_forward_hook(hook).remove)
        model.model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=False)
    positions = torch.arange(len(prompt) - rows, len(prompt), device=device)
    weights: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for layer, mixers in found.items():
        for number, mixer in enumerate(mixers):
            sizes = [len(group.q_heads) for group in mixer.shape.groups]
            owner = [group for group, size in enumerate(sizes) for _ in range(size)]
            query = kept[layer, number, "query"][0, -rows:]
            key = kept[layer, number, "key"][0][:, owner]
            weights[layer].append(
                row_weights(query, key, visible(positions, len(prompt), mixer.reach))
            )
    return {layer: torch.cat(parts, dim=1) for layer, parts in weights.items() if parts}


@torch.no_grad()
def _theirs(
    model: Any, prompt: Sequence[int], layers: Sequence[int], rows: int
) -> Mapping[int, Float[Tensor, "r h s"]]:
    """Weights that the attention modules return."""
    kept: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer in layers:
            hook = _weights_keeper(kept, layer, rows)
            module = _attention_module(model, layer)
            stack.callback(module.register_forward_hook(hook).remove)
        device = next(model.parameters()).device
        model(input_ids=torch.tensor([list(prompt)], device=device), use_cache=False)
    return kept


def _attention_module(model: nn.Module, layer: int) -> nn.Module:
    endings = tuple(
        f"layers.{layer}.{name}" for name in ("self_attn", "attention", "mixer", "attn")
    )
    for name, module in model.named_modules():
        if name.endswith(endings) and "visual" not in name and "vision" not in name:
            return module
    raise HydraHeadError(f"layer {layer} has no attention module of a known name")


def _keeper(kept: dict[tuple[int, int, str], Tensor], key: tuple[int, int, str]) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        kept[key] = output

    return hook


def _weights_keeper(kept: dict[int, Tensor], layer: int, rows: int) -> Any:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        weights = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4:
            raise HydraHeadError(
                f"layer {layer} does not hand out its attention weights",
                mend="this model's attention distance cannot be measured here",
            )
        kept[layer] = weights[0, :, -rows:].transpose(0, 1).float()

    return hook


def _by_distance(weights: Float[Tensor, "r h s"], longest: int) -> Float[Tensor, " distances"]:
    """Mean over q_heads, summed over rows, by distance."""
    rows, _, keys = weights.shape
    mean = weights.double().mean(dim=1).cpu()
    positions = torch.arange(keys - rows, keys)
    distance = (positions[:, None] - torch.arange(keys)).clamp(min=0)
    return torch.zeros(longest, dtype=torch.float64).index_add_(
        0, distance.flatten(), mean.flatten()
    )


def _summary(layer: int, mass: Float[Tensor, " distances"]) -> LayerAttention:
    total = float(mass.sum())
    if total == 0.0:
        raise HydraHeadError(f"layer {layer} has no full attention to look at")
    ends = (*EDGES[1:], max(len(mass), EDGES[-1] + 1))
    shares = tuple(
        float(mass[start:stop].sum()) / total for start, stop in zip(EDGES, ends, strict=True)
    )
    distances = torch.arange(len(mass), dtype=torch.float64)
    return LayerAttention(
        layer=layer, mean_distance=float((mass * distances).sum()) / total, shares=shares
    )
