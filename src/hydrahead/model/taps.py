"""Reading and replacing activations: the only way to do either.

Sites of every layer (b rows, t tokens; `heads` in slot order, the others in mixer order):

    residual_in       [b t d]    the block's input
    attention_input   [b t d]    after the input norm
    query, key, value [b t h e], [b t n e]   after per-head norm, rotation and query scale
    heads             [b t q e]  every q_head's output after fusion, before W_o
    attention_output  [b t d]    after W_o (and parallel mixers)
    residual_out      [b t d]    the block's output

Both are context managers that take their hooks away again whatever happens inside. They nest: hooks
run in the order they were entered, so a `record` entered inside a `replace` sees the replaced
value. With activation checkpointing, keep the backward pass inside as well: it runs the hooks
again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.mixers.tap_point import TapPoint

_IN_LAYER = {
    "residual_in": "residual_in_tap",
    "attention_input": "attention_input_tap",
    "heads": "self_attn.heads_tap",
    "attention_output": "attention_output_tap",
    "residual_out": "residual_out_tap",
}
_IN_MIXER = {"query": "query_tap", "key": "key_tap", "value": "value_tap"}

SITES = (*_IN_LAYER, *_IN_MIXER)
"""Every site's name."""


class Tape(dict[tuple[str, int], Tensor]):
    """What was recorded: `tape[site, layer]`, the newest value if a site ran more than once."""


@contextmanager
def record(
    model: nn.Module,
    sites: Sequence[str],
    layers: Sequence[int] | None = None,
    positions: Int[Tensor, " k"] | Int[Tensor, "b k"] | None = None,
) -> Iterator[Tape]:
    """Record activations of the forwards that run inside.

    Args:
        model: a `HydraForCausalLM` or `HydraModel`.
        sites: names from `SITES`.
        layers: layer indices, None for all.
        positions: token columns to keep, the same for all rows [k] or per row [b, k]; None keeps
        all.

    Yields:
        The tape. Tensors are kept as they are: run under `torch.no_grad()` unless gradients are
        wanted.

    Raises:
        HydraHeadError: an unknown site or layer, or a mixer's site in a layer with several mixers.
    """
    tape = Tape()
    chosen = range(len(_layers(model))) if layers is None else layers
    with ExitStack() as stack:
        for site in sites:
            for layer in chosen:
                point = tap_point(model, site, layer)
                hook = _recorder(tape, (site, layer), positions)
                stack.callback(point.register_forward_hook(hook).remove)
        yield tape


@contextmanager
def replace(
    model: nn.Module, changes: Mapping[tuple[str, int], Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Replace activations in the forwards that run inside.

    Args:
        model: a `HydraForCausalLM` or `HydraModel`.
        changes: (site, layer) -> function from the activation to the one to go on with, of the same
        shape.

    Raises:
        HydraHeadError: as `record`.
    """
    with ExitStack() as stack:
        for (site, layer), change in changes.items():
            point = tap_point(model, site, layer)
            stack.callback(point.register_forward_hook(_replacer(change)).remove)
        yield


def tap_point(model: nn.Module, site: str, layer: int) -> TapPoint:
    """The module whose output is the activation of `site` in `layer`.

    Raises:
        HydraHeadError: an unknown site or layer, or a mixer's site in a layer with several mixers.
    """
    if site not in SITES:
        raise unknown_name("tap site", site, SITES)
    blocks = _layers(model)
    if not 0 <= layer < len(blocks):
        raise HydraHeadError(
            f"there is no layer {layer}", mend=f"layers are 0 to {len(blocks) - 1}"
        )
    block = blocks[layer]
    if site in _IN_LAYER:
        return cast(TapPoint, block.get_submodule(_IN_LAYER[site]))
    mixers = cast(nn.ModuleList, block.get_submodule("self_attn.mixers"))
    if len(mixers) != 1:
        raise HydraHeadError(
            f"layer {layer} has {len(mixers)} mixers, and {site!r} is one mixer's",
            mend="record 'heads', or use a model whose layers have one mixer each (a teacher)",
        )
    point = getattr(mixers[0], _IN_MIXER[site], None)
    if not isinstance(point, TapPoint):
        raise HydraHeadError(f"the mixer of layer {layer} has no {site!r}", mend="record 'heads'")
    return point


def _recorder(
    tape: Tape, key: tuple[str, int], positions: Tensor | None
) -> Callable[[nn.Module, Any, Tensor], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        tape[key] = output if positions is None else _columns(output, positions)

    return hook


def _replacer(change: Callable[[Tensor], Tensor]) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        changed = change(output)
        assert changed.shape == output.shape, f"{tuple(changed.shape)} for {tuple(output.shape)}"
        return changed

    return hook


def _columns(output: Tensor, positions: Tensor) -> Tensor:
    positions = positions.to(output.device)
    if positions.ndim == 1:
        return output.index_select(1, positions)
    index = positions.reshape(*positions.shape, *(1,) * (output.ndim - 2))
    return torch.gather(output, 1, index.expand(-1, -1, *output.shape[2:]))


def _layers(model: nn.Module) -> nn.ModuleList:
    base = getattr(model, "model", model)
    layers = getattr(base, "layers", None)
    assert isinstance(layers, nn.ModuleList), "taps need a HydraForCausalLM or a HydraModel"
    return layers


__all__ = ["SITES", "TapPoint", "Tape", "record", "replace", "tap_point"]
