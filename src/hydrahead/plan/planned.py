"""What `make_plan` returns: the plan, and everything one should know of how it came about."""

from dataclasses import dataclass
from typing import Any, Literal

from hydrahead.plan.budget import Budget, FullFraction, KvBytes, format_bytes, format_tokens
from hydrahead.plan.head_plan import HeadPlan
from hydrahead.plan.ranking import Ties
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.table import spec_to_dict


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedResult:
    """A plan made from scores. An item is what the policy takes at once: a unit or a layer."""

    plan: HeadPlan
    budget: Budget
    kv_dtype: str
    policy: str
    preset: str
    linear: MixerSpec
    min_per_layer: int | None
    """None where the policy has no such constraint."""
    item: Literal["unit", "layer"]
    num_items: int
    """Items there were to choose among."""
    num_chosen: int
    """Items that stay full."""
    free_slots: int
    """Chosen items whose layer the policy's constraint left open."""
    ties: Ties

    @property
    def full_fraction(self) -> float:
        """The realised share of the free units."""
        return self.plan.full_fraction

    @property
    def configuration(self) -> dict[str, Any]:
        """Everything that decides the plan but the scores; plain JSON for the record."""
        match self.budget:
            case FullFraction(value):
                budget = {"full_fraction": value}
            case KvBytes(limit, context):
                budget = {"kv_bytes": limit, "context": context, "kv_dtype": self.kv_dtype}
        return {
            **budget,
            "policy": self.policy,
            "unit": self.plan.unit,
            "linear": spec_to_dict(self.linear),
            "preset": self.preset,
            "min_per_layer": self.min_per_layer,
        }

    @property
    def report(self) -> dict[str, Any]:
        """The counts, as plain JSON."""
        return {
            "full_fraction": self.full_fraction,
            "full_units": self.plan.num_full_units,
            "free_units": self.plan.num_free_units,
            "full_kv_heads": count_full_kv_heads(self.plan),
            "free_slots": self.free_slots,
            "ties_by_secondary": self.ties.by_secondary,
            "ties_by_order": self.ties.by_order,
        }

    def lines(self) -> list[str]:
        """The report in words, one statement a line."""
        plan = self.plan
        noun = "layer" if self.item == "layer" else plan.unit
        own = plan.geometry.num_layers - len(plan.geometry.free_layers)
        lines = [
            f"{plan.num_full_units} of {plan.num_free_units} {plan.unit}s stay full: "
            + self._asked(),
            f"policy {self.policy}: {self._freedom(noun)}",
            self._tie_line(noun),
        ]
        if plan.unit == "q_head":
            total = len(plan.geometry.free_layers) * plan.geometry.num_kv_heads
            kept = count_full_kv_heads(plan)
            lines.append(f"{kept} of {total} kv_heads are kept for them and paid for whole")
        if own:
            lines.append(f"{own} layers keep the checkpoint's own window, outside full_fraction")
        return lines

    def _asked(self) -> str:
        match self.budget:
            case FullFraction(value):
                return f"full_fraction {value:g} asked, {self.full_fraction:.4g} realised"
            case KvBytes(limit, context):
                cost = self.plan.cost(context, kv_dtype=self.kv_dtype)
                return (
                    f"{format_bytes(cost.total_bytes)} of {format_bytes(limit)} at "
                    f"{format_tokens(context)} tokens, full_fraction {self.full_fraction:.4g}"
                )

    def _freedom(self, noun: str) -> str:
        fixed = self.num_chosen - self.free_slots
        if not fixed:
            return f"all {self.free_slots} slots are free"
        why = f"at least {self.min_per_layer} per layer" if self.min_per_layer else "an even share"
        return f"{why} fixes the layer of {fixed} {noun}s, {self.free_slots} slots are free"

    def _tie_line(self, noun: str) -> str:
        if not self.ties.total:
            return "no ties at the cut"
        return (
            f"ties at the cut: {self.ties.total} of {self.num_chosen} chosen {noun}s share their "
            f"score with one left out; {self.ties.by_secondary} decided by the secondary score, "
            f"{self.ties.by_order} by mere order"
        )


def count_full_kv_heads(plan: HeadPlan) -> int:
    """kv_heads that full attention keeps for any of their q_heads, in layers that are free."""
    return sum(
        len(mixer.groups)
        for layer in plan.geometry.free_layers
        for mixer in plan.layer_mixers(layer)
        if mixer.spec.name == "full"
    )
