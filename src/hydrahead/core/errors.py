"""User mistakes: one line that says what is wrong, where, and how to mend it.

Everything a user can get wrong raises `HydraHeadError`; the command line prints it on one line
and exits with code 2. Mistakes of our own are assertions. Nothing falls back silently.
"""

import difflib
from collections.abc import Iterable
from os import PathLike, fspath


class HydraHeadError(Exception):
    """A user's mistake.

    Attributes:
        what: What is wrong, as a phrase without a full stop.
        where: The file, field or option it was found in.
        mend: What to do about it.
    """

    def __init__(
        self, what: str, *, where: str | PathLike[str] | None = None, mend: str | None = None
    ) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else fspath(where)
        self.mend = mend

    def __str__(self) -> str:
        place = "" if self.where is None else f"{self.where}: "
        mend = "" if not self.mend else f"; {self.mend}"
        return " ".join(f"{place}{self.what}{mend}".split())


class UnusableInput(HydraHeadError):
    """An input that no repetition makes better: what was made from it so far is worth nothing."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest of `known`, or the empty string when nothing is close."""
    by_folded = {_folded(candidate): candidate for candidate in known}
    close = difflib.get_close_matches(_folded(name), by_folded, n=1, cutoff=0.6)
    return f"did you mean {by_folded[close[0]]!r}?" if close else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> HydraHeadError:
    """The error for a name that is in no table; suggests the closest one, else lists them all."""
    names = tuple(known)
    listed = f"known: {', '.join(names)}" if names else "there are none"
    return HydraHeadError(f"unknown {kind} {name!r}", mend=did_you_mean(name, names) or listed)


def _folded(name: str) -> str:
    return name.casefold().replace("-", "_")
