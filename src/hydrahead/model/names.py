"""What an error says of a model of any class: where it came from, and how many tokens it knows."""

from typing import Any


def name_of(model: Any) -> str:
    """The directory or name a model was loaded from, else its class."""
    return getattr(model.config, "name_or_path", "") or type(model).__name__


def embeddings_of(model: Any) -> int | None:
    """Token ids that a model has an embedding for; None of a model that does not show it."""
    shown = getattr(model, "get_input_embeddings", None)
    return None if shown is None else int(shown().weight.shape[0])
