"""What has been measured so far, one JSON line per probe pair, so that a stopped run goes on.

The log is keyed by (phase, probe, pair). Lines are appended and flushed as results come; a last
line cut short by a kill is dropped and measured again. Floats survive the round trip exactly, so a
resumed run ends in the same scores. Without a directory the log lives in memory.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from hydrahead.core.errors import UnusableInput
from hydrahead.core.jsonio import write_text

Key = tuple[str, str, int]
Record = dict[str, Any]

FILE_NAME = "pairs.jsonl"


class PairLog:
    """Results per pair, in memory and (with a directory) on disk.

    Args:
        directory: where `pairs.jsonl` lives; None keeps results in memory only.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._path = None if directory is None else directory / FILE_NAME
        self._records: dict[Key, Record] = {}
        if self._path is not None and self._path.is_file():
            self._read(self._path)

    def __contains__(self, key: Key) -> bool:
        return key in self._records

    def __getitem__(self, key: Key) -> Record:
        return self._records[key]

    def __len__(self) -> int:
        return len(self._records)

    def missing(self, phase: str, pairs: list[tuple[str, int]]) -> list[tuple[str, int]]:
        """Those of `pairs` (probe, number) that `phase` has not measured yet."""
        return [pair for pair in pairs if (phase, *pair) not in self._records]

    def put(self, key: Key, record: Record) -> None:
        """Keep a result; arrays become nested lists. It is on disk when this returns.

        Raises:
            UnusableInput: It holds NaN or infinity.
        """
        record = {name: _plain(value) for name, value in record.items()}
        try:
            line = _line(key, record)
        except ValueError:
            raise UnusableInput(
                f"what the model makes of the {key[1]} probes is not finite",
                mend="check the checkpoint's weights; if this is float16, use bfloat16 or float32",
            ) from None
        self._records[key] = record
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())

    def array(self, key: Key, name: str) -> np.ndarray:
        """One field of a result as a float64 array."""
        return np.asarray(self._records[key][name], dtype=np.float64)

    def save(self, directory: Path) -> None:
        """Write all results, sorted by key, so that it does not show how the run was cut."""
        lines = [_line(key, self._records[key]) for key in sorted(self._records)]
        write_text(directory / FILE_NAME, "".join(lines))

    def discard(self) -> None:
        """Forget everything, on disk too."""
        self._records.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        whole = 0
        with path.open("rb") as file:
            for raw in file:
                try:
                    entry = json.loads(raw)
                    key = (str(entry["phase"]), str(entry["probe"]), int(entry["pair"]))
                except (ValueError, KeyError, TypeError):
                    break
                if not raw.endswith(b"\n"):
                    break
                self._records[key] = entry["result"]
                whole += len(raw)
        # What follows the last whole line would glue itself to the next result.
        os.truncate(path, whole)


def _line(key: Key, record: Record) -> str:
    phase, probe, pair = key
    entry = {"phase": phase, "probe": probe, "pair": pair, "result": record}
    return json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else value
