"""Policies: which units stay full, given their scores. One file each, strings in one table."""

from hydrahead.core.tables import Table

POLICIES = Table(
    "policy",
    {
        "global_top": "hydrahead.plan.policies.global_top:GLOBAL_TOP",
        "constrained_top": "hydrahead.plan.policies.constrained_top:CONSTRAINED_TOP",
        "per_layer_top": "hydrahead.plan.policies.per_layer_top:PER_LAYER_TOP",
        "layerwise": "hydrahead.plan.policies.layerwise:LAYERWISE",
    },
)
"""Policy name -> its `contract.Policy`."""
