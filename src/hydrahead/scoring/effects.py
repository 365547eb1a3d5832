"""Effects of heads per pair, read back from the log and averaged.

Averages are over pairs within a sub-probe first, then over sub-probes, so that a sub-probe that
lost pairs weighs as much as any other.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from hydrahead.scoring.fusion import capability_score, fuse
from hydrahead.scoring.pair_log import PairLog

Array = np.ndarray
Chosen = Mapping[str, Sequence[int]]
"""Sub-probe -> numbers of its pairs."""


class Effects:
    """Averages over chosen pairs.

    Args:
        log: where every pair's "effect" is, by phase.
        shape: (layers, q_heads).
    """

    def __init__(self, log: PairLog, shape: tuple[int, int]) -> None:
        self._log, self._shape = log, shape

    def mean(self, phase: str, probe: str, numbers: Sequence[int], field: str = "effect") -> Array:
        """Mean of a sub-probe's pairs in one phase, [layer, q_head]."""
        effects = [self._log.array((phase, probe, number), field) for number in numbers]
        return np.mean(effects, axis=0).reshape(self._shape)

    def over(self, phase: str, chosen: Chosen) -> Array:
        """Mean over sub-probes of their means, [layer, q_head]."""
        return np.mean([self.mean(phase, *entry) for entry in chosen.items()], axis=0)

    def role(self, phases: Mapping[str, str | None], chosen: Chosen) -> Array:
        """[probe, layer, q_head]: means, each in its sub-probe's phase; 0 for one without."""
        means: list[Array] = []
        for probe, numbers in chosen.items():
            phase = phases[probe]
            none = np.zeros(self._shape)
            means.append(none if phase is None else self.mean(phase, probe, numbers))
        return np.stack(means)


def fused_score(
    capabilities: Mapping[str, Sequence[str]],
    receiver: Mapping[str, Array],
    sender: Mapping[str, Array],
    threshold: float,
) -> tuple[Array, Array]:
    """Eq. 11 and 12 on effects by sub-probe.

    Returns:
        scores [layer, q_head] and kappa [capability, layer, q_head].
    """
    parts = {
        name: capability_score(
            np.stack([receiver[probe] for probe in group]),
            np.stack([sender[probe] for probe in group]),
            threshold,
        )
        for name, group in capabilities.items()
    }
    return fuse({name: score for name, (score, _) in parts.items()}), np.stack(
        [kappa for _, kappa in parts.values()]
    )
