"""A lock on a file that dies with its process, so that a killed run never blocks the next one."""

import errno
import fcntl
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from hydrahead.core.errors import HydraHeadError


@contextmanager
def exclusive(path: Path, *, where: Path) -> Generator[None, None, None]:
    """Hold the lock on `path` (created if needed) for the length of the block.

    The lock belongs to the open file, not to its name: its folder may be renamed meanwhile.

    Raises:
        HydraHeadError: Somebody else holds it; names `where`.
    """
    what = "another process is writing it at this moment"
    busy = HydraHeadError(what, where=where, mend="wait for it, or stop it")
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except FileNotFoundError:  # the folder was renamed under us: its owner has just finished
        raise busy from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise busy from None
        if not _names(path, descriptor):
            raise busy
        yield
    finally:
        os.close(descriptor)


def _names(path: Path, descriptor: int) -> bool:
    """Whether `path` still names the open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
