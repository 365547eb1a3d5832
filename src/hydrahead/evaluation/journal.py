"""What is done already, a JSON line per finished piece; a kill loses the piece at hand at most."""

import json
import os
from pathlib import Path
from typing import Any


class Journal:
    """Append-only lines under keys; reading them back is how a run resumes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: dict[str, Any] = {}
        if path.exists():
            self._read()

    def get(self, *key: str | int | float | None) -> Any | None:
        """What was recorded under `key`, or None."""
        return self._done.get(_name(key))

    def add(self, value: Any, *key: str | int | float | None) -> None:
        """Record `value` (plain JSON) and hand it to the disk."""
        line = json.dumps({"key": _name(key), "value": value}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._done[_name(key)] = value

    def _read(self) -> None:
        text = self._path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if len(whole) < len(text):  # cut short by a kill: the next line must not be glued to it
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        for line in whole.decode("utf-8").splitlines():
            entry = json.loads(line)
            self._done[entry["key"]] = entry["value"]


def _name(key: tuple[str | int | float | None, ...]) -> str:
    return json.dumps(key)
