"""What the documents tell people to type works: Python blocks run, command lines parse."""

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language: str, document: Path) -> list[str]:
    """Fenced blocks of one language."""
    return [body for name, body in BLOCK.findall(document.read_text()) if name == language]


def command_lines() -> list[str]:
    """Every `hydrahead ...` line of a fenced block, continuation lines joined."""
    found: list[str] = []
    for document in DOCUMENTS:
        for block in blocks("", document):
            lines = block.replace("\\\n", " ").splitlines()
            found += [line for line in lines if line.startswith("hydrahead ")]
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_python_blocks_run(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    namespace: dict[str, Any] = {}
    for block in blocks("python", document):
        exec(compile(block, str(document), "exec"), namespace)


def test_the_readme_has_python_and_command_lines() -> None:
    assert len(blocks("python", ROOT / "README.md")) == 2
    assert len(command_lines()) > 10


@pytest.mark.parametrize("line", command_lines())
def test_command_lines_parse(line: str) -> None:
    from hydrahead.cli import app

    words = shlex.split(line, comments=True)[1:]
    group: Any = typer.main.get_command(app)
    verb = group.commands[words[0]]
    verb.make_context(words[0], words[1:])


def test_links_lead_somewhere() -> None:
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_results_page_is_what_its_files_say() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "results_page.py"))["page"]()
    assert (ROOT / "docs" / "results" / "README.md").read_text() == made


def test_the_falcon_page_is_what_its_files_say() -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "falcon_h1" / "page.py"))["page"]()
    assert (ROOT / "docs" / "results" / "falcon_h1.md").read_text() == made


@pytest.mark.parametrize("name", ["allocation", "allocation_small"])
def test_the_allocation_pages_are_what_their_files_say(name: str) -> None:
    made = runpy.run_path(str(ROOT / "benchmarks" / "allocation" / "page.py"))
    results = ROOT / "docs" / "results"
    written = (results / f"{name}.md").read_text()
    assert written == made["page"](json.loads((results / f"{name}.json").read_text()), name)
