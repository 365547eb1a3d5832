"""Where something may be written: never inside what it would change by being there.

Artefacts, model directories and data folders are known by a hash of everything in them. A file
written into one makes it another one: the command that made it, or that reads it, would be refused
the next time.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from hydrahead.core.errors import HydraHeadError
from hydrahead.core.records import RECORD_NAME


def refuse_inside(out: Path, inputs: Iterable[Path | str] = ()) -> None:
    """Refuse an `out` inside an artefact, a model directory, or one of `inputs`.

    Args:
        out: What is to be written; it need not exist.
        inputs: What it is made from; what names no file or directory is passed over.

    Raises:
        HydraHeadError: it lies inside of one.
    """
    read = {Path(given).resolve() for given in inputs if os.path.exists(given)}
    for folder in out.resolve().parents:
        what = _what(folder) or ("an input" if folder in read else None)
        if what is not None:
            raise HydraHeadError(
                f"lies inside {folder}, {what} that it would change",
                where=out,
                mend="choose an --out outside of it",
            )


def _what(folder: Path) -> str | None:
    if (folder / RECORD_NAME).is_file():
        return "an artefact"
    if (folder / "config.json").is_file() and any(folder.glob("*.safetensors")):
        return "a model directory"
    return None
