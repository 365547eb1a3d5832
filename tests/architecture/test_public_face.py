"""The public names are these, and importing the package teaches the Auto classes about hybrids."""

import subprocess
import sys

import pytest

import hydrahead
from torch_free import PREAMBLE

PUBLIC = [
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


def test_the_public_names_are_pinned() -> None:
    assert hydrahead.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(hydrahead))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    value = getattr(hydrahead, name)
    assert value.__name__ == name
    assert value.__doc__


def test_a_wrong_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'HeadPaln'"):
        hydrahead.HeadPaln  # noqa: B018


@pytest.mark.matrix
@pytest.mark.parametrize("first", ["import hydrahead", "from transformers import pipeline"])
def test_the_auto_classes_know_hybrids_whatever_was_imported_first(first: str) -> None:
    script = f"""
{first}
import hydrahead
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("hydrahead")
print(type(config).__name__, AutoModelForCausalLM._model_mapping[type(config)].__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["HydraConfig", "HydraForCausalLM"], done.stderr


def test_core_tasks_and_plan_load_without_torch() -> None:
    script = """
import importlib, pathlib
root = pathlib.Path(stand_in.__path__[0])
for room in ("core", "tasks", "plan"):
    for path in sorted((root / room).rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[]\n", done.stderr
