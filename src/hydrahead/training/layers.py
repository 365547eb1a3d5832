"""Treatment of a model's decoder layers: recompute their activations, compile them, one at a time.

Layer by layer is what keeps memory flat (only one layer's activations live during backward) and
compilation short (all layers share one graph). A layer is found by structure, not by class, so any
decoder works.
"""

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.utils.checkpoint import checkpoint


def decoder_layers(model: nn.Module) -> list[nn.Module]:
    """The longest `ModuleList` of the model that is not inside another one: its blocks in order."""
    lists: list[nn.ModuleList] = []

    def visit(module: nn.Module) -> None:
        for child in module.children():
            if isinstance(child, nn.ModuleList):
                lists.append(child)
            else:
                visit(child)

    visit(model)
    return list(max(lists, key=len, default=nn.ModuleList()))


@contextmanager
def recomputed_activations(layers: Sequence[nn.Module]) -> Iterator[None]:
    """While entered, each layer keeps only its input and runs again during backward."""
    patched: list[nn.Module] = []
    try:
        for layer in layers:
            original = layer.forward
            layer.forward = functools.partial(checkpoint, original, use_reentrant=False)
            patched.append(layer)
        yield
    finally:
        for layer in patched:
            del layer.forward


def compile_layers(layers: Sequence[nn.Module]) -> None:
    """Compile each layer in place (`nn.Module.compile`)."""
    for layer in layers:
        layer.compile()
