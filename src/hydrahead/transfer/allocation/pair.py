"""The pair of mixers a gate chooses between, and what makes a pair impossible.

Written "full:window", with settings behind the mixer they belong to:
"full:window:window=128,sinks=0", "window:window=512:gated_delta". The first is what a gate of 1
runs, and what a unit keeps that stays within the budget.
"""

from dataclasses import dataclass
from pathlib import Path

from hydrahead.core.errors import HydraHeadError
from hydrahead.plan.presets import preset_specs
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.table import parse_settings, spec_class, spec_from_dict, spec_to_dict

_EXAMPLE = "write FIRST:SECOND, for example full:window:window=128"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """What an open and a shut gate run."""

    kept: MixerSpec
    replacement: MixerSpec

    @property
    def shares_projections(self) -> bool:
        """Whether both read the same keys and values, as softmax mixers do."""
        return self.kept.shares_keys_when_split and self.replacement.shares_keys_when_split

    @property
    def needs_twins(self) -> bool:
        """Whether a side does not start near the teacher by its projections alone."""
        return not self.shares_projections

    def to_dict(self) -> dict[str, object]:
        """Plain JSON for the record."""
        return {"kept": spec_to_dict(self.kept), "replacement": spec_to_dict(self.replacement)}


def parse_pair(text: str, *, length: int) -> Pair:
    """Read a pair; a required setting nobody gave is the mixer's suggestion for rows of `length`.

    Raises:
        HydraHeadError: not two mixers, an unknown mixer or setting, a mixer that takes no slots,
            twice the same, full attention as the second.
    """
    described: list[str] = []
    for piece in text.split(":"):
        if "=" in piece and described:
            joint = "," if ":" in described[-1] else ":"
            described[-1] += joint + piece
        else:
            described.append(piece)
    if len(described) != 2:
        raise HydraHeadError(f"{text!r} is not a pair of mixers", where="pair", mend=_EXAMPLE)
    kept, replacement = (_spec(part, length) for part in described)
    for spec in (kept, replacement):
        if not spec.takes_slots:
            raise HydraHeadError(
                f"{spec.name} has heads of its own and cannot start from the teacher's",
                where="pair",
                mend="name a mixer that takes slots: full, window, gated_delta",
            )
    if kept == replacement:
        raise HydraHeadError(
            f"both mixers of {text!r} are the same", where="pair", mend="change one of them"
        )
    preset_specs("plain", replacement)  # what can replace full attention at all
    return Pair(kept=kept, replacement=replacement)


def require_pair(pair: Pair, *, twins: Path | None, length: int, context: int) -> None:
    """Refuse a pair that cannot be told apart in training, or that lacks its twins.

    Args:
        pair: The mixers.
        twins: The twins' directory, if one was named.
        length: Tokens in a training row.
        context: The teacher's native context in tokens.

    Raises:
        HydraHeadError: A window that covers a whole row, missing twins, twins nobody needs.
    """
    reach = pair.replacement.equals_full_up_to
    if reach is not None and reach >= length:
        limit = f", the teacher's context {context}" if reach >= context else ""
        raise HydraHeadError(
            f"a window of {reach} tokens sees all of a training row of {length}{limit}: gates "
            "would have nothing to tell apart",
            where="pair",
            mend="give a shorter window, or longer rows with --length",
        )
    if pair.needs_twins and twins is None:
        linear = next(s for s in (pair.replacement, pair.kept) if not s.shares_keys_when_split)
        raise HydraHeadError(
            f"{linear.name} does not start from the teacher without twins",
            where="pair",
            mend="make twins with: plan --full-fraction 0, convert, distill --stages align "
            "--align-target heads; then give --twins DIR",
        )
    if twins is not None and not pair.needs_twins:
        raise HydraHeadError(
            f"{pair.replacement.name} starts from the teacher's projections: it takes no twins",
            where="twins",
            mend="leave --twins out",
        )


def _spec(text: str, length: int) -> MixerSpec:
    name, settings = parse_settings(text)
    kind = spec_class(name)
    missing = {
        key: value
        for key, value in kind.suggested(length).items()
        if kind.model_fields[key].is_required()
    }
    return spec_from_dict({**missing, **settings, "name": name}, where="pair")
