"""Checking data from a file or a command line: errors say what is wrong and how to mend it."""

from collections.abc import Mapping
from typing import Any, TypeGuard, TypeVar

from pydantic import BaseModel, ValidationError

from hydrahead.core.errors import HydraHeadError, did_you_mean
from hydrahead.core.jsonio import validation_error

AnyModel = TypeVar("AnyModel", bound=BaseModel)


def is_object(value: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether `value` is what a JSON object is read as."""
    return isinstance(value, Mapping)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether `value` is an integer, and not one of the truth values that Python counts as such."""
    return isinstance(value, int) and not isinstance(value, bool)


def refuse_unknown_keys(data: Mapping[str, Any], known: tuple[str, ...], *, where: str) -> None:
    """Raise HydraHeadError for the first key that is not in `known`, with a suggestion."""
    for key in data:
        if key not in known:
            mend = did_you_mean(str(key), known) or f"known: {', '.join(known)}"
            raise HydraHeadError(f"unknown key {key!r}", where=where, mend=mend)


def validated(model: type[AnyModel], data: Mapping[str, Any], *, where: str) -> AnyModel:
    """`data` as a `model`, without any conversion of types.

    Unknown keys are looked for first, because a misspelt key also shows up as a missing one.

    Raises:
        HydraHeadError: the first field that does not fit.
    """
    refuse_unknown_keys(data, tuple(model.model_fields), where=where)
    try:
        return model.model_validate(dict(data), strict=True)
    except ValidationError as error:
        problem = validation_error(error, model=model, where=where)
        missing = error.errors()[0]["type"] == "missing"
        mend = problem.mend or ("add it" if missing else None)
        raise HydraHeadError(problem.what, where=problem.where, mend=mend) from None
