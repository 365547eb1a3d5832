"""How much memory a run will take, worked out before the first step; refuses what cannot fit.

The estimate counts what is certain (masters, gradients, Adam's moments) exactly and activations by
a rule of thumb per token and layer: what the backward pass of a gated-MLP decoder block keeps. It
is meant to stop runs that are hopeless, not to predict the last percent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hydrahead.core.errors import HydraHeadError
from hydrahead.training.config import TrainConfig
from hydrahead.training.head_loss import default_chunk_tokens
from hydrahead.training.layers import decoder_layers

_HIDDEN_COPIES = 16
"""Hidden-sized tensors a block keeps per token: norms, q, k, v, heads, residuals, spare."""
_MLP_COPIES = 4
"""MLP-sized tensors a block keeps per token: gate, up, activation, product."""
_LOGIT_COPIES = 4
"""Chunks of logits alive at once: narrow, wide, gradient, the teacher's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes a run needs beyond the weights that are already loaded."""

    masters: int
    gradients: int
    optimiser: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.masters + self.gradients + self.optimiser + self.activations + self.logits

    def __str__(self) -> str:
        parts = ("masters", "gradients", "optimiser", "activations", "logits")
        return ", ".join(f"{name} {_gib(getattr(self, name))}" for name in parts)


def estimate_memory(
    model: nn.Module, config: TrainConfig, *, layer_by_layer: bool = False
) -> MemoryEstimate:
    """What training `model` will need beside its weights.

    Args:
        model: Loaded, with `requires_grad` set; its `config` gives hidden, MLP and vocabulary
            sizes.
        config: Batch shape and recomputation.
        layer_by_layer: The objective holds the activations of one layer at a time, beside a few
            hidden-sized tensors per layer.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    narrow = sum(p.numel() for p in trainable if p.element_size() < 4)
    count = sum(p.numel() for p in trainable)
    sizes: Any = getattr(model, "config", None)
    hidden = int(getattr(sizes, "hidden_size", 0))
    inner = int(getattr(sizes, "intermediate_size", 4 * hidden))
    vocab = int(getattr(sizes, "vocab_size", 1))
    layers = len(decoder_layers(model))
    tokens = config.batch_size * config.length
    width = 2 if config.dtype == "bfloat16" else 4
    block = tokens * width * (_HIDDEN_COPIES * hidden + _MLP_COPIES * inner)
    kept = tokens * width * hidden
    one_block = layer_by_layer or config.activation_checkpointing
    device = next(model.parameters()).device
    chunk = min(tokens, default_chunk_tokens(vocab, device))
    return MemoryEstimate(
        masters=4 * narrow,
        gradients=4 * count + 2 * narrow,
        optimiser=8 * count,
        activations=2 * layers * kept + block if one_block else layers * block,
        logits=_LOGIT_COPIES * 4 * chunk * vocab + 4 * vocab * hidden,
    )


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    limits = [_meminfo_available(), _cgroup_available(Path("/sys/fs/cgroup"))]
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)


def require_memory(
    model: nn.Module,
    config: TrainConfig,
    *,
    layer_by_layer: bool = False,
    available: int | None = None,
) -> None:
    """Refuse a run that cannot fit.

    Args:
        model: The model to be trained, loaded.
        config: The run.
        layer_by_layer: As in `estimate_memory`.
        available: Bytes free; asked of the system if not given.

    Raises:
        HydraHeadError: The estimate is above what is free; gives the numbers and what to change.
    """
    device = next(model.parameters()).device
    free = available_bytes(device) if available is None else available
    estimate = estimate_memory(model, config, layer_by_layer=layer_by_layer)
    if free is None or estimate.total <= free:
        return
    ways = ["lower batch_size (and raise accumulation)", "lower length"]
    if not (config.activation_checkpointing or layer_by_layer):
        ways.insert(0, "set activation_checkpointing")
    fixed = estimate.masters + estimate.gradients + estimate.optimiser
    mend = "use a device with more memory" if fixed > free else " or ".join(ways)
    raise HydraHeadError(
        f"training needs about {_gib(estimate.total)} GiB beside the weights, "
        f"{_gib(free)} GiB are free on {device.type} ({estimate})",
        mend=mend,
    )


def _gib(number: int) -> str:
    return f"{number / (1 << 30):.2f}"


def _meminfo_available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return None


def _cgroup_available(root: Path) -> int | None:
    """Room under a container's limit (cgroup v2); reclaimable file cache counts as free."""
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = int((root / "memory.current").read_text(encoding="ascii"))
        statistics = (root / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    cache = sum(int(line.split()[1]) for line in statistics if line.startswith("inactive_file "))
    return max(0, int(limit) - used + cache)
