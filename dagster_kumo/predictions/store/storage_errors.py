"""What a disk or an object store complains of, with what it was about and what to do."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from dagster_kumo.api.errors import without_query

_WRITABLE = "Let the user that Dagster runs as read and write there."
_A_FILE = "A part of the path is a file: choose a folder as base_path."
_ADVICE = {
    errno.ENOSPC: "Make room on the disk, or choose another base_path.",
    errno.EDQUOT: "Make room in the quota, or choose another base_path.",
    errno.EROFS: "It is mounted for reading only: mount it for writing, or choose another base_path.",
    errno.EACCES: _WRITABLE,
    errno.EPERM: _WRITABLE,
    errno.ENOTDIR: _A_FILE,
    errno.EEXIST: _A_FILE,
    errno.ENAMETOOLONG: "The path is too long for the disk: choose a shorter base_path.",
    errno.ENOENT: "Is base_path right? The bucket that it names must exist.",
}


@contextmanager
def explained(what: str) -> Generator[None, None, None]:
    """Turns an `OSError` of the block into one of the same kind that says `what` could not be done,
    why, and what to do.

    >>> with explained("/store could not be written"):
    ...     raise PermissionError(13, "Permission denied")
    Traceback (most recent call last):
    ...
    PermissionError: [Errno 13] /store could not be written: Permission denied.
    Let the user that Dagster runs as read and write there.
    """
    try:
        yield
    except OSError as error:
        number = _number(error)
        # Of an object store's error there is the text only; it may quote a url.
        why = without_query(error.strerror or str(error)).rstrip(".")
        where = f" ({error.filename})" if error.filename else ""
        advice = _ADVICE.get(number, "Is base_path right, and can it be reached from here?")
        raise OSError(number, f"{what}: {why}{where}.\n{advice}") from None


def _number(error: OSError) -> int:
    """The number of an error, by which `OSError` makes one of the right class."""
    if error.errno is not None:
        return error.errno
    if isinstance(error, PermissionError):
        return errno.EACCES
    return errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO
