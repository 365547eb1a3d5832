"""Every line of every table leads somewhere."""

import importlib
import re

import pytest
from sources import PACKAGE, python_files

from hydrahead.core.tables import Table
from hydrahead.plan.specs.base import MixerSpec
from hydrahead.plan.table import MIXERS, mixer_class, spec_class

TABLE = re.compile(r"^(\w+)(?:: [\w\[\], ]+)? = Table\(", re.MULTILINE)
NEEDS_AN_EXTRA = {"FASTS": "gpu"}


def tables() -> list[tuple[str, str, str]]:
    """Module, variable and entry of every table in the source."""
    found: list[tuple[str, str, str]] = []
    for path in python_files():
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for variable in TABLE.findall(path.read_text(encoding="utf-8")):
            table = getattr(importlib.import_module(module), variable)
            found += [(module, variable, name) for name in table.names()]
    return found


def test_the_tables_were_found() -> None:
    assert {variable for _, variable, _ in tables()} >= {"TASKS", "SCORERS", "POLICIES", "FAMILIES"}


@pytest.mark.parametrize(("module", "variable", "name"), tables())
def test_every_entry_resolves(module: str, variable: str, name: str) -> None:
    table = getattr(importlib.import_module(module), variable)
    assert isinstance(table, Table)
    if variable in NEEDS_AN_EXTRA:
        file, _, attribute = table.target(name).partition(":")
        source = PACKAGE.parent.joinpath(*file.split(".")).with_suffix(".py")
        assert re.search(
            rf"^(def|class) {attribute}\b|^{attribute}\b.* = ", source.read_text(), re.M
        )
    else:
        assert callable(table.load(name)) or table.load(name) is not None


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_has_its_settings_and_its_module(name: str) -> None:
    spec, mixer = spec_class(name), mixer_class(name)
    assert issubclass(spec, MixerSpec)
    assert spec.model_fields["name"].default == name if "name" in spec.model_fields else True
    assert (spec.__name__.removesuffix("Spec"), "Spec") == (
        mixer.__name__.removesuffix("Mixer"),
        "Spec",
    )
    assert spec.__module__.rsplit(".", 1)[-1] == mixer.__module__.rsplit(".", 1)[-1] == name
