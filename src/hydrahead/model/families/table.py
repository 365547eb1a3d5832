"""The table of checkpoint families: one line per family, strings only."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydrahead.core.errors import HydraHeadError, did_you_mean
from hydrahead.core.tables import Table

if TYPE_CHECKING:
    from hydrahead.model.families.base import Family

FAMILIES = Table(
    "model family",
    {
        "qwen3": "hydrahead.model.families.qwen3:FAMILY",
        "qwen2": "hydrahead.model.families.qwen2:FAMILY",
        "llama": "hydrahead.model.families.llama:FAMILY",
        "mistral": "hydrahead.model.families.mistral:FAMILY",
        "falcon_h1": "hydrahead.model.families.falcon_h1:FAMILY",
    },
)
"""model_type -> the family's description."""


def family_of(config: Mapping[str, Any], *, where: Any = None) -> "Family":
    """The family that a config.json belongs to.

    Raises:
        HydraHeadError: a model_type that is in no table; lists the known ones and suggests the
            closest.
    """
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = f"known: {', '.join(FAMILIES)}"
        hint = did_you_mean(str(model_type), FAMILIES)
        raise HydraHeadError(
            f"unknown architecture: model_type {model_type!r}",
            where=where,
            mend=f"{hint} ({known})" if hint else known,
        )
    return FAMILIES.load(model_type)
