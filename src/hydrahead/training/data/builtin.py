"""Text every Python installation has: help topics and the standard library's docstrings.

The default corpus, for trying things without a network. It is small (a few million characters) and
differs a little between Python versions; numbers made from it name the version in the artefact.
"""

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydrahead.training.data.documents import Document, DocumentSource, TextEncoder

_SKIPPED = frozenset(
    {
        "test",
        "tests",
        "site-packages",
        "dist-packages",
        "idlelib",
        "lib2to3",
        "ensurepip",
        "turtledemo",
    }
)
_SHORTEST_CHARACTERS = 200


class BuiltinText(DocumentSource):
    """One document per help topic and per module with docstrings worth reading."""

    def __init__(self, tokenizer: Any) -> None:
        self._text = TextEncoder(tokenizer)

    def records(self, start: int) -> Iterator[str | Path]:
        """Topics, then module files; files are parsed only when they are encoded."""
        yield from [*topic_texts(), *library_files()][start:]

    def encode(self, record: str | Path) -> list[Document]:
        """The document of a topic or of a module's docstrings."""
        text = docstrings(record) if isinstance(record, Path) else record
        return [self._text.document(text)] if len(text) >= _SHORTEST_CHARACTERS else []


def builtin_texts() -> Iterator[str]:
    """All texts of the corpus, in a fixed order."""
    for record in [*topic_texts(), *library_files()]:
        text = docstrings(record) if isinstance(record, Path) else record
        if len(text) >= _SHORTEST_CHARACTERS:
            yield text


def topic_texts() -> list[str]:
    """Texts of `help("topics")`."""
    try:
        from pydoc_data.topics import topics
    except ImportError:  # some distributions leave it out
        return []
    return list(dict.fromkeys(topics[name].strip() for name in sorted(topics)))


def library_files() -> list[Path]:
    """Python files of the standard library, without its tests."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _SKIPPED]  # not even looked into
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return sorted(found)


def docstrings(path: Path) -> str:
    """Docstrings of a module and of everything defined in it, in order."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return ""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = (node for node in ast.walk(tree) if isinstance(node, documented))
    ordered = sorted(nodes, key=lambda node: getattr(node, "lineno", 0))
    parts: list[str] = []
    for node in ordered:
        text = ast.get_docstring(node)
        if text:
            name = getattr(node, "name", path.stem)
            parts.append(f"{name}: {text}")
    return "\n\n".join(parts)
