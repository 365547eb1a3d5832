"""One visible table of strings per kind of plug-in.

A table maps a name to `package.module:Attribute` and imports the module only when the entry is
asked for, so that listing scorers never costs an import of torch, and a text search finds every
plug-in.
"""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from hydrahead.core.errors import unknown_name


class Table:
    """Names of one kind of plug-in and where each lives.

    Args:
        kind: What an entry is, in the singular; used in error messages ("task", "mixer").
        entries: name -> `package.module:Attribute`.
    """

    def __init__(self, kind: str, entries: Mapping[str, str]) -> None:
        for name, target in entries.items():
            module, colon, attribute = target.partition(":")
            assert module and colon and attribute, f"{kind} {name!r}: {target!r} is not module:name"
        self.kind = kind
        self._entries = dict(entries)

    def names(self) -> tuple[str, ...]:
        """Every name, in the table's order."""
        return tuple(self._entries)

    def target(self, name: str) -> str:
        """`package.module:Attribute` of one entry.

        Raises:
            HydraHeadError: The name is not in the table; suggests the closest.
        """
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def load(self, name: str) -> Any:
        """The object behind `name`, importing its module.

        Raises:
            HydraHeadError: The name is not in the table; suggests the closest.
        """
        module, _, attribute = self.target(name).partition(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Table({self.kind!r}, {list(self._entries)})"
