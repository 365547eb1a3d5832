"""Fusion scalars from the teacher: gamma_h becomes the size of what the teacher's head h gives.

Fusion gives a normalised head the output y = gamma_h * RMSNorm(o_h) (HydraHead, arXiv 2606.20097,
Eq. 13-14), whose root mean square is gamma_h. W_o expects outputs as large as the teacher's, so
gamma_h starts as the root mean square of the teacher's head output over tokens and head_dim.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.model.loading import load_model, load_tokenizer
from hydrahead.model.modeling import HydraForCausalLM, HydraLayer
from hydrahead.model.taps import record
from hydrahead.training.batch import Batch
from hydrahead.training.data.packing import PackedBatches
from hydrahead.training.data.sources import build_source

NUM_BATCHES = 8
ROWS, ROW_TOKENS = 4, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSizes:
    """How large the teacher's head outputs are, and on how many tokens that was measured."""

    rms: Float[Tensor, "layers q_heads"]
    num_tokens: int


@torch.no_grad()
def measure_head_sizes(teacher: HydraForCausalLM, batches: Iterable[Batch]) -> HeadSizes:
    """Root mean square of every head's output before W_o, over all tokens of `batches`.

    Args:
        teacher: An all-full hybrid, on any device.
        batches: Packed rows; every one is read.

    Raises:
        HydraHeadError: there is no batch, or an output is not finite.
    """
    config = teacher.config
    squares = torch.zeros(config.num_hidden_layers, config.num_attention_heads, dtype=torch.float64)
    num_tokens = 0
    for batch in batches:
        batch = batch.to(teacher.device)
        with record(teacher, ["heads"]) as tape:
            teacher.model(
                input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False
            )
        for layer in range(config.num_hidden_layers):
            heads = tape["heads", layer].double()
            squares[layer] += heads.square().sum(dim=(0, 1, 3)).cpu()
        num_tokens += batch.num_tokens
    if not num_tokens:
        raise HydraHeadError("no text to calibrate on", mend="give a longer text")
    if not torch.isfinite(squares).all():
        raise HydraHeadError("the teacher's head outputs are not finite", mend="check the teacher")
    return HeadSizes(
        rms=(squares / (num_tokens * config.head_dim)).sqrt().float(), num_tokens=num_tokens
    )


def set_fusion(hybrid: HydraForCausalLM, sizes: HeadSizes) -> dict[str, Any]:
    """Write measured sizes into the scalars of normalised heads; what to record about it.

    Changes `hybrid`: its fusion scalars, and `config.fusion_calibrated`.
    """
    changed: list[Tensor] = []
    with torch.no_grad():
        blocks = cast(list[HydraLayer], list(hybrid.model.layers))
        for layer, block in enumerate(blocks):
            fusion = block.self_attn.fusion
            if fusion is None:
                continue
            measured = sizes.rms[layer].to(fusion.gamma)
            normalised = torch.tensor(fusion.normalised, device=fusion.gamma.device)
            fusion.gamma.copy_(torch.where(normalised, measured, fusion.gamma))
            changed.append(measured[normalised].cpu())
    hybrid.config.fusion_calibrated = True
    gamma = torch.cat(changed) if changed else torch.zeros(0)
    return {
        "num_tokens": sizes.num_tokens,
        "num_heads": gamma.numel(),
        "gamma_min": gamma.min().item() if changed else None,
        "gamma_max": gamma.max().item() if changed else None,
    }


def calibrate_fusion(
    hybrid: HydraForCausalLM, teacher: HydraForCausalLM, batches: Iterable[Batch]
) -> dict[str, Any]:
    """Set the fusion scalars of `hybrid` from the teacher's outputs on `batches`.

    Returns:
        What to record: tokens read, heads set, smallest and largest scalar.

    Raises:
        HydraHeadError: as `measure_head_sizes`.
    """
    return set_fusion(hybrid, measure_head_sizes(teacher, batches))


def measure_on_text(model: Path, text: Path) -> HeadSizes:
    """Head sizes of the teacher in `model` on the first rows of a text; loads it whole, in fp32.

    Raises:
        HydraHeadError: no such text, an empty or binary one, or no tokenizer beside the model.
    """
    tokenizer = load_tokenizer(model)
    teacher = load_model(model)
    length = min(ROW_TOKENS, teacher.config.max_position_embeddings)
    mixture = build_source(text, tokenizer, length=length)
    vocab_size = teacher.config.vocab_size
    packed = PackedBatches(mixture, batch_size=ROWS, length=length, vocab_size=vocab_size)
    return measure_head_sizes(teacher, _first(packed, NUM_BATCHES))


def _first(batches: Iterable[Batch], count: int) -> Iterator[Batch]:
    for batch, _ in zip(batches, range(count), strict=False):
        yield batch
