"""A disk that is full or may not be written is the user's to mend; the error says what for."""

import errno
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from hydrahead.core.errors import HydraHeadError


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space, on the disk or in a quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def disk_full_named(out: Path) -> Generator[None, None, None]:
    """Turn a full disk into a `HydraHeadError` about `out`."""
    try:
        yield
    except OSError as error:
        if not is_disk_full(error):
            raise
        mend = "free some space, or choose another --out, and run the same command"
        raise HydraHeadError("no space left on the disk", where=out, mend=mend) from error


@contextmanager
def unwritable_named(out: Path) -> Generator[None, None, None]:
    """Turn any `OSError` into a `HydraHeadError` about `out`; for a body that only writes."""
    try:
        with disk_full_named(out):
            yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise HydraHeadError(
            f"cannot be written ({reason})", where=out, mend="choose another --out"
        ) from error
