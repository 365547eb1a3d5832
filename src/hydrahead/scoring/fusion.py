"""From effects per sub-probe to one score per head (HydraHead, arXiv 2606.20097, Eq. 11-12).

Within a capability: `s = mean effect over sub-probes * kappa`, kappa being the fraction of
sub-probes in which the head's effect exceeds a threshold, so that a head that matters once by
chance counts little. Across capabilities: min-max over all heads, then the plain mean.
"""

from collections.abc import Mapping

import numpy as np

Array = np.ndarray


def consistency(best_role: Array, threshold: float) -> Array:
    """Kappa: the fraction of sub-probes (first axis) in which the effect exceeds `threshold`."""
    return (best_role > threshold).mean(axis=0)


def capability_score(receiver: Array, sender: Array, threshold: float) -> tuple[Array, Array]:
    """Eq. 11 for one capability.

    Args:
        receiver: indirect effect as a receiver [probe, layer, q_head].
        sender: the same as a sender.
        threshold: effect above which a sub-probe counts for the head (0.01 in the paper).

    Returns:
        score and kappa, both [layer, q_head].
    """
    kappa = consistency(np.maximum(receiver, sender), threshold)
    return np.maximum(receiver.mean(axis=0), sender.mean(axis=0)) * kappa, kappa


def min_max(values: Array) -> Array:
    """Values brought to [0, 1] over all heads; all 0 where they do not differ."""
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values, dtype=float)


def fuse(scores: Mapping[str, Array]) -> Array:
    """Eq. 12: min-max of every capability over all heads, then their mean, [layer, q_head]."""
    return np.mean([min_max(values) for values in scores.values()], axis=0)
