"""Every recipe builds a complete configuration, and says what it does not know."""

from pathlib import Path

import pytest

from hydrahead.core.errors import HydraHeadError
from hydrahead.recipes.table import RECIPES, build_recipe

TEXT = {"text": "text.jsonl"}
NEEDED = {name: TEXT for name in ("small_teacher", "falcon_h1_small", "falcon_h1_tiny")}


@pytest.mark.parametrize("name", RECIPES.names())
def test_it_builds_and_survives_json(name: str) -> None:
    run = build_recipe(name, NEEDED.get(name))
    assert type(run).model_validate_json(run.model_dump_json()) == run


@pytest.mark.parametrize("name", RECIPES.names())
def test_its_docstring_says_what_it_returns(name: str) -> None:
    documentation = RECIPES.load(name).__doc__ or ""
    assert "Returns:" in documentation
    assert len(documentation) > 200


def test_a_wrong_name_gets_a_suggestion() -> None:
    with pytest.raises(HydraHeadError, match="did you mean 'demo'"):
        build_recipe("dmeo")
    with pytest.raises(HydraHeadError, match="did you mean 'seed'"):
        build_recipe("demo", {"sed": 1})


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(HydraHeadError, match=r"small_teacher.*needs 'text'"):
        build_recipe("small_teacher")


def test_settings_reach_the_run() -> None:
    run = build_recipe("small_teacher", {"text": "a.jsonl", "device": "cpu", "workers": 0})
    assert run.text == Path("a.jsonl")  # type: ignore[attr-defined]
    assert run.device == "cpu"  # type: ignore[attr-defined]
