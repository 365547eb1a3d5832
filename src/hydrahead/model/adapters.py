"""Which maps of a hybrid may carry a low-rank adapter, or be quantised, and which must not.

Two maps of Mamba-2 heads are special in Falcon-H1 checkpoints. The convolution's weight is
[channels, 1, taps], for which the product of two low-rank factors has the wrong shape: adapters on
it train, and cannot be merged (tiiuae/Falcon-H1, issue 13). And transformers' fused kernel reads
the weight of `out_proj` itself: an adapter on it is silently left out there, a quantised weight is
read as something else. TII advises to leave both alone.

Here `out_proj` is called like any other map, so both would work as long as the model stays a
hybrid; an exported checkpoint would not compute the same. They are refused all the same.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from hydrahead.core.errors import HydraHeadError, did_you_mean
from hydrahead.mixers.mamba2 import Mamba2Mixer

_REASONS = {
    "conv": "its weight [channels, 1, taps] cannot take up the product of low-rank factors",
    "out_proj": "transformers' fused kernel reads its weight directly, past adapters and "
    "quantisation",
}


def adaptable_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the linear maps that may carry an adapter or be quantised.

    Everything linear but the head, whose weight may be the embedding's, and the output projection
    of Mamba-2 heads. Give it as `target_modules` to a LoRA configuration; `skipped_modules` names
    the rest for a quantiser.
    """
    forbidden = {name for name, _ in _forbidden(model)}
    return tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in forbidden and name != "lm_head"
    )


def skipped_modules(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that must stay as they are: convolutions and `out_proj`, the head."""
    return (*(name for name, _ in _forbidden(model)), "lm_head")


def require_adaptable(model: nn.Module, targets: Iterable[str]) -> None:
    """Refuse targets for adapters or quantisation that would go wrong.

    Args:
        model: A hybrid.
        targets: Names of modules, or their ends, as LoRA configurations have them
            ("q", "in_proj", "self_attn.parallel.0.in_proj").

    Raises:
        HydraHeadError: a target matches a module that must be left alone, or none at all.
    """
    forbidden = dict(_forbidden(model))
    names = [name for name, _ in model.named_modules() if name]
    for target in targets:
        pattern = re.compile(rf"(^|\.){re.escape(target)}$")
        matches = [name for name in names if pattern.search(name)]
        wrong = next((name for name in matches if name in forbidden), None)
        if wrong is not None:
            reason = _REASONS[forbidden[wrong]]
            raise HydraHeadError(
                f"{target!r} matches {wrong}, which must be left alone: {reason}",
                mend="take the targets from hydrahead.model.adapters.adaptable_modules(model)",
            )
        if not matches:
            known = tuple(dict.fromkeys(name.rpartition(".")[2] for name in names))
            raise HydraHeadError(
                f"no module is called {target!r}", mend=did_you_mean(target, known) or None
            )


def require_adapter(model: nn.Module, adapter: Any) -> None:
    """The same for the `target_modules` of an adapter's configuration (peft's).

    A string is a regular expression over whole names there, or "all-linear". Without any targets
    it is the adapter library that chooses, or refuses.
    """
    targets = getattr(adapter, "target_modules", None) or ()
    if targets == "all-linear":
        targets = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    elif isinstance(targets, str):
        pattern = re.compile(targets)
        targets = [name for name, _ in model.named_modules() if pattern.fullmatch(name)]
    require_adaptable(model, targets)


def _forbidden(model: nn.Module) -> list[tuple[str, str]]:
    """(name, kind) of the modules of Mamba-2 heads that are special."""
    return [
        (f"{name}.{kind}" if name else kind, kind)
        for name, module in model.named_modules()
        if isinstance(module, Mamba2Mixer)
        for kind in _REASONS
    ]
