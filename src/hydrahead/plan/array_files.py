"""Named float arrays in one .npz file, written whole and read without pickle."""

import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hydrahead.core.errors import HydraHeadError

# What zipfile and numpy raise on files that were cut short, altered or are something else. Both
# read untrusted sizes, hence MemoryError.
_DAMAGE = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)


def save_arrays(path: Path, arrays: Mapping[str, NDArray[np.float64]]) -> None:
    """Write `arrays` as one .npz, atomically; the same arrays give the same bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    """Read every array of `path`.

    Raises:
        HydraHeadError: the file is missing, damaged, or holds something else than numbers.
    """
    if not path.is_file():
        raise HydraHeadError("no such file", where=path, mend="score again")
    if not zipfile.is_zipfile(path):
        raise HydraHeadError("is damaged or no array file", where=path, mend="score again")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except _DAMAGE as error:
        raise HydraHeadError(
            f"is damaged or no array file ({type(error).__name__})", where=path, mend="score again"
        ) from None
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise HydraHeadError(
                f"array {name!r} holds {array.dtype}, not floats", where=path, mend="score again"
            )
    return {name: array.astype(np.float64) for name, array in arrays.items()}
