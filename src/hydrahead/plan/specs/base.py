"""What every mixer's settings share: a name, and what the mixer costs. Plain data, no torch."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """Sizes of one mixer in one layer: how many heads it runs and how wide they are."""

    num_groups: int
    """Key/value heads of the mixer (after any expansion or split)."""
    num_heads: int
    """q_heads of the mixer."""
    head_dim: int
    hidden_size: int


class MixerSpec(BaseModel, ABC, frozen=True, extra="forbid"):
    """Settings of one mixer. Subclasses add `name: Literal[...]`, which tags them in JSON."""

    name: str
    normalise_output: bool
    """Scale-normalised fusion runs on these heads (HydraHead, arXiv 2606.20097, Eq. 13-14)."""

    @property
    def takes_slots(self) -> bool:
        """False for parallel mixers, which bring heads of their own."""
        return True

    @property
    def beside(self) -> str:
        """The heads that a parallel mixer brings, in a few words; empty where it takes slots."""
        return ""

    @property
    def one_group_per_q_head(self) -> bool:
        """True when every q_head has its own copy of keys and values, whatever the plan's unit."""
        return False

    @property
    def shares_keys_when_split(self) -> bool:
        """True when a kv_head split between mixers is still stored once here (softmax mixers)."""
        return False

    @property
    def equals_full_up_to(self) -> int | None:
        """Tokens up to which it sees all that full attention sees; None where it never does."""
        return None

    @classmethod
    def suggested(cls, length: int) -> dict[str, Any]:
        """Required settings nobody gave, for trying the mixer on rows of `length` tokens."""
        return {}

    @abstractmethod
    def kv_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """Bytes of cached keys and values after `context` tokens of one sequence."""

    @abstractmethod
    def state_bytes(self, heads: HeadShape, context: int, element_bytes: int) -> int:
        """Bytes of everything else the mixer remembers for one sequence."""

    @abstractmethod
    def flops(self, heads: HeadShape, context: int) -> int:
        """Operations to mix one new token after `context` tokens, projections excluded."""
