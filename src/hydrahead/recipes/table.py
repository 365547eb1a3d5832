"""The recipes there are, and how one is made from its name and the settings given to it."""

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError, validate_call

from hydrahead.core.errors import HydraHeadError, unknown_name
from hydrahead.core.jsonio import validation_error
from hydrahead.core.tables import Table
from hydrahead.pipeline.run import Run

RECIPES = Table(
    "recipe",
    {
        "demo": "hydrahead.recipes.demo:demo",
        "small_teacher": "hydrahead.recipes.small_teacher:small_teacher",
        "learned_window": "hydrahead.recipes.learned_window:learned_window",
        "falcon_h1_small": "hydrahead.recipes.falcon_h1:falcon_h1_small",
        "falcon_h1_tiny": "hydrahead.recipes.falcon_h1:falcon_h1_tiny",
        "seven_to_one": "hydrahead.recipes.seven_to_one:seven_to_one",
    },
)


def build_recipe(name: str, settings: Mapping[str, Any] | None = None) -> Run:
    """The run a recipe describes.

    Args:
        name: a name of `RECIPES`.
        settings: keyword arguments of the recipe function.

    Raises:
        HydraHeadError: an unknown recipe or setting (with a suggestion), or a required one missing.
    """
    recipe = RECIPES.load(name)
    given = dict(settings or {})
    parameters = inspect.signature(recipe).parameters
    for key in given:
        if key not in parameters:
            raise unknown_name(f"setting of recipe {name!r}", key, parameters)
    for key, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and key not in given:
            raise HydraHeadError(
                f"recipe {name!r} needs {key!r}", mend=f"give --set {key}=... on the command line"
            )
    try:
        return validate_call(recipe)(**given)
    except ValidationError as error:
        raise validation_error(error, model=BaseModel, where=f"recipe {name!r}") from None
