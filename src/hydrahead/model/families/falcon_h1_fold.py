"""Falcon-H1's forward multipliers folded into the weights: a checkpoint without them, same logits.

Every multiplier stands behind a linear map or before one, so it can be multiplied into the map's
weight, and, where it stands behind, into its bias. Runtimes that lack the multipliers (several
ports got one wrong) can read a folded checkpoint; and learning rates that suit a multiplied weight
follow from the same table (`falcon_h1_rates.py`).

Names are those of transformers' FalconH1ForCausalLM; what each factor multiplies was read off its
forward pass.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.geometry import ModelGeometry
from hydrahead.plan.specs.mamba2 import Mamba2Spec

NEUTRAL: Mapping[str, Any] = {
    "embedding_multiplier": 1.0,
    "lm_head_multiplier": 1.0,
    "key_multiplier": 1.0,
    "attention_in_multiplier": 1.0,
    "attention_out_multiplier": 1.0,
    "ssm_in_multiplier": 1.0,
    "ssm_out_multiplier": 1.0,
    "mlp_multipliers": [1.0, 1.0],
    "ssm_multipliers": [1.0] * 5,
}
"""The multipliers of a config.json that has none."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """What one linear map is multiplied by; `rows` has a factor per output row besides."""

    before: float = 1.0
    """Factor on the map's input: into the weight alone."""
    behind: float = 1.0
    """Factor on its output: into weight and bias."""
    rows: Float[Tensor, " rows"] | None = None

    def size(self, *, is_bias: bool) -> float:
        """One number for the whole tensor: of differing rows, the geometric mean."""
        rows = 1.0 if self.rows is None else float(self.rows.abs().log().mean().exp())
        return self.behind * rows * (1.0 if is_bias else self.before)

    def apply(self, tensor: Tensor, *, is_bias: bool) -> Tensor:
        """The folded tensor, in its dtype; the products are formed in fp64."""
        wide = tensor.double() * (self.behind if is_bias else self.before * self.behind)
        if self.rows is not None:
            wide = wide * self.rows.double().reshape(-1, *(1,) * (tensor.ndim - 1))
        return wide.to(tensor.dtype)


def fold_table(config: Mapping[str, Any], *, where: Any = None) -> dict[str, Fold]:
    """Module (as its name ends, behind the layer's number) -> what it is multiplied by.

    Args:
        config: config.json of a Falcon-H1.
        where: Named in errors.

    Raises:
        HydraHeadError: not a Falcon-H1, or a contradictory config.json.
    """
    if config.get("model_type") != "falcon_h1":
        raise HydraHeadError(
            f"multipliers are Falcon-H1's, this is {config.get('model_type')!r}", where=where
        )
    spec = ModelGeometry.from_config(config, where=where).parallel[0]
    assert isinstance(spec, Mamba2Spec)
    full = {**NEUTRAL, **{key: value for key, value in config.items() if value is not None}}
    gate, down = full["mlp_multipliers"]
    attention_in = full["attention_in_multiplier"]
    rows = torch.cat([torch.full((n,), m).double() for m, n in spec.chunk_multipliers])
    return {
        "model.embed_tokens": Fold(behind=full["embedding_multiplier"]),
        "lm_head": Fold(behind=full["lm_head_multiplier"]),
        "self_attn.q_proj": Fold(before=attention_in),
        "self_attn.k_proj": Fold(before=attention_in, behind=full["key_multiplier"]),
        "self_attn.v_proj": Fold(before=attention_in),
        "self_attn.o_proj": Fold(behind=full["attention_out_multiplier"]),
        "mamba.in_proj": Fold(before=spec.input_multiplier, rows=rows),
        "mamba.out_proj": Fold(behind=spec.output_multiplier),
        "feed_forward.gate_proj": Fold(behind=gate),
        "feed_forward.down_proj": Fold(behind=down),
    }


def fold_of(table: Mapping[str, Fold], name: str) -> Fold:
    """What the tensor `name` is multiplied by; nothing where it is not in the table."""
    module = re.sub(r"^model\.layers\.\d+\.", "", name.rpartition(".")[0])
    return table.get(module, Fold())


def fold(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], *, where: Any = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A Falcon-H1 checkpoint without multipliers that gives the same logits.

    Tied embeddings come apart, because embedding and head are multiplied differently.

    Args:
        config: Its config.json.
        tensors: Its weights; they are left alone.
        where: Named in errors.

    Returns:
        The folded config.json and weights; the weights in their dtype, so narrow ones are rounded
        once more.

    Raises:
        HydraHeadError: as `fold_table`.
    """
    table = fold_table(config, where=where)
    tensors = dict(tensors)
    folded_config = {**config, **NEUTRAL}
    if config.get("tie_word_embeddings"):
        tensors.setdefault(HEAD, tensors[EMBEDDING])
        folded_config["tie_word_embeddings"] = False
    folded = {
        name: fold_of(table, name).apply(tensor, is_bias=name.endswith(".bias"))
        for name, tensor in tensors.items()
    }
    return folded_config, folded
