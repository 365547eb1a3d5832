"""What a plan may spend: a share of the units, or bytes at a context length."""

import math
import re
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

from hydrahead.core.errors import HydraHeadError

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True, slots=True)
class FullFraction:
    """This share of the free units stays full attention."""

    value: float

    def __post_init__(self) -> None:
        if not 0 <= self.value <= 1:  # also refuses NaN
            raise HydraHeadError(
                f"full_fraction is {self.value}", mend="give the share that stays full, 0 to 1"
            )

    def count(self, total: int) -> int:
        """The share of `total`, halves rounded up (0.5 of 5 is 3).

        The fraction is taken as it is written: 0.145 of 100 is 14.5 and counts as 15, although the
        nearest binary number is a little below.
        """
        exact = Decimal(repr(float(self.value))) * total
        return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))


@dataclass(frozen=True, slots=True)
class KvBytes:
    """kv_bytes + state_bytes of one sequence of `context` tokens stay within `limit`."""

    limit: int
    context: int

    def __post_init__(self) -> None:
        if self.limit < 0 or self.context < 1:
            raise HydraHeadError(
                f"a budget of {self.limit} bytes at {self.context} tokens makes no sense",
                mend="give bytes@context, for example 256M@128K",
            )


Budget = FullFraction | KvBytes


def parse_kv_bytes(text: str) -> tuple[int, int]:
    """Read "N@CONTEXT" into (bytes, tokens).

    Both may be decimal and carry K, M, G or T, which count in steps of 1024, with or without "B" or
    "iB": "256M@128K", "1.5GiB@32768".

    Raises:
        HydraHeadError: anything else.
    """
    parts = [re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", p.strip(), re.IGNORECASE)
             for p in text.split("@")]  # fmt: skip
    if len(parts) != 2 or None in parts:
        raise HydraHeadError(
            f"cannot read the budget {text!r}",
            mend="give bytes@context, for example 256M@128K",
        )
    limit, context = (
        math.floor(Decimal(part[1]) * _UNITS[part[2].upper()]) for part in parts if part
    )
    return limit, context


def format_bytes(count: int) -> str:
    """Bytes with a binary unit: 2048 -> "2.00 KiB", 512 -> "512 B"."""
    if abs(count) < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if abs(value) < 1024:
            return f"{_three_digits(value)} {unit}"
    return f"{_three_digits(value / 1024)} TiB"


def format_tokens(count: int) -> str:
    """Tokens in steps of 1024 where that comes out even: 131072 -> "128K", 1000 -> "1000"."""
    for factor, letter in ((2**20, "M"), (2**10, "K")):
        if count and count % factor == 0:
            return f"{count // factor}{letter}"
    return str(count)


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - int(math.log10(max(value, 1))))}f}"
