"""Small files with one idea each."""

import ast
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from sources import PACKAGE, python_files, relative

SOFT_FILE, HARD_FILE = 350, 450
SOFT_FUNCTION, HARD_FUNCTION = 50, 90

LARGE_ON_PURPOSE: dict[str, str] = {}
"""File -> why it may be larger; kernels and generated files only."""


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Name and lines of code, without the docstring, of every function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            lines = (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
            yield f"{relative(path)}:{node.lineno} {node.name}", lines


def test_files_are_small() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in python_files(PACKAGE)}
    for name, length in lengths.items():
        if length > SOFT_FILE:
            print(f"{name}: {length} lines, look at it again")
    too_large = [
        f"{n}: {k}" for n, k in lengths.items() if k > HARD_FILE and n not in LARGE_ON_PURPOSE
    ]
    assert not too_large, f"more than {HARD_FILE} lines: {too_large}"
    assert median(lengths.values()) <= 150
    assert set(LARGE_ON_PURPOSE) <= set(lengths), "the list names files that are gone"


def test_functions_are_small() -> None:
    lengths = dict(item for path in python_files(PACKAGE) for item in functions(path))
    for name, length in lengths.items():
        if length > SOFT_FUNCTION:
            print(f"{name}: {length} lines, look at it again")
    too_large = [f"{name}: {length}" for name, length in lengths.items() if length > HARD_FUNCTION]
    assert not too_large, f"more than {HARD_FUNCTION} lines: {too_large}"


@pytest.mark.parametrize("path", python_files(), ids=relative)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "no module docstring"
