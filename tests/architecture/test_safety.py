"""What must not be in the source: unsafe loading, remote code, traces of one machine."""

import re
from pathlib import Path

import pytest
from sources import ROOT, TEXT, project_files, python_files, relative

UNSAFE = {
    "pickle": r"\b(import|from) (c?pickle|dill|joblib|shelve|marshal)\b",
    "torch.load or torch.save": r"\btorch\.(load|save)\(",
    "remote code": r"trust_remote_code\s*=\s*True",
    "numpy pickles": r"allow_pickle\s*=\s*True",
    "evaluating text": r"(?<![\w.])(eval|exec)\(",
    "a shell": r"shell\s*=\s*True|\bos\.system\(",
}
MACHINE = re.compile(r"/(?:root|home/\w+|Users/\w+|work/(?:main|shared)|tmp/\w+)\b")
HERE = Path(__file__).name


@pytest.mark.parametrize("what", UNSAFE)
def test_nothing_unsafe_in_the_source(what: str) -> None:
    pattern = re.compile(UNSAFE[what])
    found = [relative(path) for path in python_files() if pattern.search(path.read_text("utf-8"))]
    assert not found, f"{what} in {found}"


def test_no_paths_of_one_machine() -> None:
    found: list[str] = []
    for path in project_files():
        if path.suffix not in TEXT or path.name == HERE or path.stat().st_size > 1 << 20:
            continue
        match = MACHINE.search(path.read_text(encoding="utf-8", errors="replace"))
        if match:
            found.append(f"{relative(path)}: {match.group()}")
    assert not found, found


def test_code_is_ascii() -> None:
    files = [*python_files(), *python_files(ROOT / "tests")]
    found = [relative(path) for path in files if not path.read_text("utf-8").isascii()]
    assert not found, f"write \\u escapes: {found}"


def test_annotations_are_real_where_shapes_are_checked() -> None:
    """Postponed annotations are strings, and a checker that gets a string checks nothing."""
    postponed = "from __future__ import annotations"
    found = [relative(path) for path in python_files() if postponed in path.read_text("utf-8")]
    assert not found, found


def test_every_exception_handler_knows_what_it_catches() -> None:
    bare = re.compile(
        r"^\s*except(?: Exception)?(?: as \w+)?:\s*(?:#.*)?\n\s*(?:pass|continue)\b", re.M
    )
    found = [relative(path) for path in python_files() if bare.search(path.read_text("utf-8"))]
    assert not found, f"errors vanish in {found}"


def test_no_large_files_outside_the_assets() -> None:
    found = [
        f"{relative(path)}: {path.stat().st_size >> 10} KiB"
        for path in project_files()
        if path.stat().st_size > 250 << 10 and "assets" not in path.parts
    ]
    assert not found, found
