"""beartype as jaxtyping's import hook needs it.

The hook decorates methods one by one, and there beartype refuses `Self`; nor can it look at type
guards, or at protocols that are not checkable at run time. What it refuses is checked as `Any`. An
int passes for a float, as in every type checker.
"""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype
from beartype.door import is_bearable
from beartype.roar import BeartypeDecorHintException

_SETTINGS = BeartypeConf(is_pep484_tower=True)


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Check the arguments and the result of every call."""
    hints = getattr(function, "__annotations__", {})
    for name, hint in hints.items():
        if not _checkable(hint):
            hints[name] = Any
    return beartype(conf=_SETTINGS)(function)


def _checkable(hint: Any) -> bool:
    try:
        is_bearable(None, hint, conf=_SETTINGS)
    except BeartypeDecorHintException:
        return False
    return True
