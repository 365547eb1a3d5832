"""Modules with a constant factor on what they compute: muP's forward multipliers (Falcon-H1).

The factor belongs to the module, so that whoever calls it (the model, a scorer, a replayed layer)
gets the scaled value. A factor of 1 costs nothing.
"""

from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaMLP

from hydrahead.mixers.projections import RMSNorm
from hydrahead.model.configuration import HydraConfig


class ScaledEmbedding(nn.Embedding):
    """Token embeddings times `embedding_multiplier`; the table itself is not scaled."""

    def __init__(self, config: HydraConfig) -> None:
        super().__init__(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.factor = config.embedding_multiplier

    def forward(self, input: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """The rows of `input`, scaled."""
        return scaled(super().forward(input), self.factor)


class FinalNorm(RMSNorm):
    """The last norm times `lm_head_multiplier`: the head has no bias, so the logits are scaled.

    On this side of the head every loss that reads hidden states and the head's weight has it too.
    """

    def __init__(self, config: HydraConfig) -> None:
        super().__init__(config.hidden_size, config.rms_norm_eps)
        self.factor = config.lm_head_multiplier

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The normalised hidden states, scaled."""
        return scaled(super().forward(x), self.factor)


class ScaledMLP(LlamaMLP):
    """m_down W_down( W_up x * act(m_gate W_gate x) )."""

    def __init__(self, config: HydraConfig) -> None:
        super().__init__(config)
        self.gate_factor, self.down_factor = config.mlp_multipliers or (1.0, 1.0)

    def forward(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """The MLP of every token."""
        gate = self.act_fn(scaled(self.gate_proj(x), self.gate_factor))
        return scaled(self.down_proj(gate * self.up_proj(x)), self.down_factor)


def scaled(x: Tensor, factor: float) -> Tensor:
    """`x` times `factor`."""
    return x if factor == 1.0 else x * factor
