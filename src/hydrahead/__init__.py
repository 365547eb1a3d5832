"""HydraHead: decide per attention head which mixer runs it.

The public names are imported when they are first used. The one import-time act is that `AutoConfig`
and `AutoModelForCausalLM` learn to load hybrids, which imports torch and transformers (seconds).
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrahead.core.errors import HydraHeadError
    from hydrahead.evaluation import evaluate, write_report
    from hydrahead.model.configuration import HydraConfig
    from hydrahead.model.modeling import HydraForCausalLM
    from hydrahead.plan import HeadPlan, HeadScores, ModelGeometry, make_plan
    from hydrahead.scoring.run import score_heads
    from hydrahead.transfer.allocation.run import allocate
    from hydrahead.transfer.convert import convert
    from hydrahead.transfer.distill import distill
    from hydrahead.transfer.export import export
    from hydrahead.transfer.surgery import restore_qk

__version__ = "0.1.0"

_PUBLIC = {
    "HeadPlan": "hydrahead.plan.head_plan",
    "HeadScores": "hydrahead.plan.scores",
    "HydraConfig": "hydrahead.model.configuration",
    "HydraForCausalLM": "hydrahead.model.modeling",
    "HydraHeadError": "hydrahead.core.errors",
    "ModelGeometry": "hydrahead.plan.geometry",
    "allocate": "hydrahead.transfer.allocation.run",
    "convert": "hydrahead.transfer.convert",
    "distill": "hydrahead.transfer.distill",
    "evaluate": "hydrahead.evaluation.runner",
    "export": "hydrahead.transfer.export",
    "make_plan": "hydrahead.plan.make",
    "restore_qk": "hydrahead.transfer.surgery",
    "score_heads": "hydrahead.scoring.run",
    "write_report": "hydrahead.evaluation.report",
}

__all__ = [
    "HeadPlan",
    "HeadScores",
    "HydraConfig",
    "HydraForCausalLM",
    "HydraHeadError",
    "ModelGeometry",
    "allocate",
    "convert",
    "distill",
    "evaluate",
    "export",
    "make_plan",
    "restore_qk",
    "score_heads",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PUBLIC[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


def _register() -> None:
    """Teach the Auto classes to load hybrids: the one import-time act.

    Eager on purpose: an import hook that waits for transformers would save `--help` seconds and
    break whenever another hook or another transformers release imports in another order.
    """
    from hydrahead.model import register

    register()


_register()
