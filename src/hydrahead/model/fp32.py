"""What stays fp32 whatever the model's dtype: gates, decays, fusion scalars, rope frequencies.

bf16 has 8 bits of mantissa: a gate that starts at 1 cannot take the small early steps of training,
and it learns nothing while everything looks fine. Such parameters sit in child modules of these
names, compute inside their own forward, and are listed for `from_pretrained`; `model.to(bfloat16)`
must spare them too.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

FP32_MODULES = ("gates", "output_gate", "fusion")
"""Names of the child modules whose parameters stay fp32."""
_KEPT = {*FP32_MODULES, "rotary_emb"}
_NARROW = (torch.float16, torch.bfloat16)


def apply_keeping_fp32(
    module: nn.Module,
    apply: Callable[..., Any],
    fn: Callable[[Tensor], Tensor],
    *,
    recurse: bool,
) -> Any:
    """`module._apply(fn)` that changes the device but does not narrow what must stay fp32.

    Args:
        module: the model.
        apply: its inherited `_apply`.
        fn: what to do with every tensor.
        recurse: as in `nn.Module._apply`.
    """
    before = {name: tensor.data for name, tensor in _kept(module)}
    result = apply(fn, recurse)
    for name, tensor in _kept(module):
        if tensor.dtype in _NARROW and before[name].dtype == torch.float32:
            # Narrowing and widening again would lose the low bits: take the values of before.
            tensor.data = before[name].to(tensor.device)
            if tensor.grad is not None:
                tensor.grad = None
    return result


def reset_new_parameters(module: nn.Module) -> None:
    """Give parameters that the teacher does not have their defined start, unless they were loaded.

    Modules of ours that own such parameters have `reset_parameters`, which uses no randomness.
    """
    own = list(module.parameters(recurse=False))
    reset = getattr(module, "reset_parameters", None)
    # Asked of the method, not of the class: our embedding inherits torch's own, which is random.
    if reset is None or not own or not reset.__module__.startswith("hydrahead."):
        return
    loaded = [(p, p.detach().clone()) for p in own if getattr(p, "_is_hf_initialized", False)]
    if len(loaded) == len(own):
        return
    reset()
    with torch.no_grad():
        for parameter, value in loaded:
            parameter.copy_(value)


def _kept(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    return ((name, tensor) for name, tensor in tensors if _KEPT.intersection(name.split(".")))
