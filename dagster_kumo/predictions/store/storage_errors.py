"""Errors of disks and object stores that say what failed, why, and what to do."""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager

from dagster_kumo.api.errors import KumoError, without_query

_WRITABLE = "Let the user that Dagster runs as read and write there."
_A_FILE = "A part of the path is a file: choose a folder as base_path."
_UNKNOWN = "Is base_path right, can it be reached from here, and do the credentials allow it?"
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
def explained(
    what: str, advice: str = "", *, errors: type[Exception] = Exception
) -> Generator[None, None, None]:
    """Turns an error of the storage, of the class `errors`, into an `OSError` that says `what` could not be done, why, and what
    to do: `advice`, or what fits the error.

    Not all file systems raise an `OSError`: those of Azure and Google have their own classes.

    >>> with explained("/store could not be written"):
    ...     raise PermissionError(13, "Permission denied")
    Traceback (most recent call last):
    ...
    PermissionError: [Errno 13] /store could not be written: Permission denied.
    Let the user that Dagster runs as read and write there.
    """
    try:
        yield
    except KumoError:
        raise
    except errors as error:
        number = _number(error)
        # An error of an object store has no more than a text, which may quote a url.
        why = without_query(getattr(error, "strerror", None) or str(error)).rstrip(".")
        filename = getattr(error, "filename", None)
        where = f" ({filename})" if filename else ""
        advice = advice or _ADVICE.get(number, _UNKNOWN)
        raise OSError(number, f"{what}: {why}{where}.\n{advice}") from None


def _number(error: Exception) -> int:
    """The number of an error, from which `OSError` chooses the class."""
    number: int | None = getattr(error, "errno", None)
    if number is not None:
        return number
    if isinstance(error, PermissionError):
        return errno.EACCES
    return errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO
