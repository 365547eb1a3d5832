"""`metrics.jsonl`: one JSON object per logged step, cut back to the checkpoint on resume."""

import json
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends metrics; what a killed run wrote after its last checkpoint is dropped first."""

    def __init__(self, path: Path, *, done_steps: int) -> None:
        kept = [line for line in read_metrics(path) if line["step"] <= done_steps]
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".tmp")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append one line and hand it to the system at once."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines; a last line cut short by a kill is ignored."""
    if not path.exists():
        return []
    lines: list[dict[str, Any]] = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
