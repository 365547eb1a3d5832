"""What a model can do and what it costs: recall by generation, loss by position, one report.

`evaluate` makes an artefact with `results.json`; `write_report` turns any number of artefacts into
one self-contained page. The names load when they are first used, so a report needs no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrahead.evaluation.report import write_report
    from hydrahead.evaluation.results import EvaluationResults, read_results
    from hydrahead.evaluation.runner import evaluate
    from hydrahead.evaluation.subjects import LoadedModel

__all__ = ["EvaluationResults", "LoadedModel", "evaluate", "read_results", "write_report"]

_HOMES = {
    "EvaluationResults": "results",
    "LoadedModel": "subjects",
    "evaluate": "runner",
    "read_results": "results",
    "write_report": "report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
