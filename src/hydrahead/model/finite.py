"""Predictions that are no numbers: a float16 that overflowed, or a damaged checkpoint.

Greedy decoding would go on from them as if nothing were wrong.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor

from hydrahead.core.errors import UnusableInput
from hydrahead.model.names import name_of


class FiniteLogits(LogitsProcessor):
    """Refuses logits that hold NaN or +inf; looks at the first token of a generation only.

    Args:
        model: whose they are.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._looked = False

    def __call__(
        self, input_ids: Int[Tensor, "b t"], scores: Float[Tensor, "b v"]
    ) -> Float[Tensor, "b v"]:
        """`scores`, as they are.

        Raises:
            HydraHeadError: one of them is NaN or +inf.
        """
        if not self._looked:
            self._looked = True
            if bool((scores.isnan() | scores.isposinf()).any()):
                model = self._model
                raise not_finite("the model's predictions are", name_of(model), model.dtype)
        return scores


def not_finite(what: str, where: str, dtype: torch.dtype) -> UnusableInput:
    """The error for `what` ("the loss is") that a model in `dtype` makes of sound input."""
    mend = "check the checkpoint's weights"
    if dtype == torch.float16:
        mend = "float16 overflows in many models: use bfloat16 or float32"
    return UnusableInput(f"{what} not finite", where=where, mend=mend)
