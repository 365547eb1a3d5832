"""Keyphrases from long documents: a BIO tagger that looks beyond its window, at little cost.

A document is cut into windows, each encoded once; the tokens of a window query static word vectors
of the other windows through one small cross-attention layer ("Attention Expansion", arXiv
2606.10716, whose equations are reconstructed here, see `expansion`). Nothing else in HydraHead
imports this room. The names load when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrahead.keyphrase.configuration import KeyphraseConfig
    from hydrahead.keyphrase.evaluation import evaluate_keyphrases
    from hydrahead.keyphrase.extraction import KeyphraseExtractor
    from hydrahead.keyphrase.modeling import KeyphraseModel
    from hydrahead.keyphrase.training import train_keyphrases

__all__ = [
    "KeyphraseConfig",
    "KeyphraseExtractor",
    "KeyphraseModel",
    "evaluate_keyphrases",
    "train_keyphrases",
]

_HOMES = {
    "KeyphraseConfig": "configuration",
    "KeyphraseExtractor": "extraction",
    "KeyphraseModel": "modeling",
    "evaluate_keyphrases": "evaluation",
    "train_keyphrases": "training",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
