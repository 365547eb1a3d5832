"""Learning rates by tensor that suit muP's forward multipliers (arXiv 2203.03466, Falcon-H1).

Two rules, for Adam, whose step does not depend on the size of the gradient:

- A weight W behind a multiplier m acts as m W. A step on W moves the model m times as far, so its
  rate is divided by m: training with multipliers is then training the folded weights.
- A map from the width of the model moves its output by width times the step, so its rate falls as
  base_width / width. Embeddings, norms, biases, convolutions and gates keep theirs.

The first is exact (without weight decay, and with Adam's eps far below the gradients); the
input projection of Mamba-2 heads has a factor per chunk, and gets their geometric mean. The second
is muP's for Adam; one learning rate then serves every width.
"""

from hydrahead.model.families.falcon_h1 import FAMILY
from hydrahead.model.families.falcon_h1_fold import fold_of, fold_table
from hydrahead.model.modeling import HydraForCausalLM

_HIDDEN = (
    "_proj.weight",
    "lm_head.weight",
    "projections.q.weight",
    "projections.k.weight",
    "projections.v.weight",
)
"""Ends of the names of maps whose input grows with the width of the model."""


def learning_rate_scales(model: HydraForCausalLM, *, base_width: int) -> dict[str, float]:
    """Parameter name -> what the learning rate is multiplied by.

    Args:
        model: Of the family falcon_h1, whatever its plan.
        base_width: The hidden size at which the learning rate was tuned.

    Raises:
        HydraHeadError: a model of another family.
    """
    table = fold_table(FAMILY.to_teacher(model.config), where=model.config.name_or_path or None)
    narrower = base_width / model.config.hidden_size
    return {
        name: (narrower if name.endswith(_HIDDEN) else 1.0)
        / fold_of(table, _stored(name)).size(is_bias=name.endswith(".bias"))
        for name, _ in model.named_parameters()
    }


def _stored(name: str) -> str:
    """The family's name of a hybrid's tensor, whichever mixer of the layer it belongs to."""
    head, found, tail = name.partition(".self_attn.mixers.")
    _, _, role = tail.partition(".projections.")
    if found and role:
        return f"{head}.self_attn.{role.replace('.', '_proj.', 1)}"
    return FAMILY.weights.stored(name)
