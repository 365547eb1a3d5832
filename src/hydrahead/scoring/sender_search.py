"""The search for senders: rounds of path patching until a round adds no receiver.

Round 1 patches paths into the heads whose own effect exceeds the threshold. Heads found to send
into them join the receivers of round 2, which finds the senders of senders, and so on. The effect
that counts is that of the last round.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from hydrahead.scoring.effects import Effects
from hydrahead.scoring.senders import num_sending_layers

Array = np.ndarray
SendRound = Callable[[str, torch.Tensor], None]
"""Measures every pair with the given receivers and logs it under the given phase."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SenderSearch:
    """How the search went for one capability."""

    receivers: tuple[Array, ...]
    """Masks [layer, q_head] of each round, and last of a further round, if the last one grew."""
    phases: tuple[str, ...] = field(default=())
    converged: bool
    """The last round added none (or there was nobody to send to)."""

    @property
    def last_phase(self) -> str | None:
        """The phase whose effects count as the senders'; None if no round was needed."""
        return self.phases[-1] if self.phases else None

    def report(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "rounds": len(self.phases),
            "converged": self.converged,
            "receivers": [int(mask.sum()) for mask in self.receivers],
        }


def search_senders(
    capability: str,
    chosen: Mapping[str, Sequence[int]],
    effects: Effects,
    send: SendRound,
    *,
    first: Array,
    threshold: float,
    max_rounds: int,
) -> SenderSearch:
    """Run rounds to the fixed point, at most `max_rounds`.

    Args:
        chosen: the capability's sub-probes and their pairs.
        send: measures one round.
        first: effect of every head as a receiver.
        threshold: effect above which a head joins the receivers.
    """
    receivers = [first > threshold]
    phases: list[str] = []
    while len(phases) < max_rounds:
        current = torch.from_numpy(receivers[-1])
        if not num_sending_layers(current):
            return SenderSearch(receivers=tuple(receivers), phases=tuple(phases), converged=True)
        phases.append(f"send {capability} {len(phases) + 1}")
        send(phases[-1], current)
        grown = receivers[-1] | (effects.over(phases[-1], chosen) > threshold)
        if (grown == receivers[-1]).all():
            return SenderSearch(receivers=tuple(receivers), phases=tuple(phases), converged=True)
        receivers.append(grown)
    return SenderSearch(receivers=tuple(receivers), phases=tuple(phases), converged=False)
