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
    what: str, advice: str = "", *, denied: str = "", errors: type[Exception] = Exception
) -> Generator[None, None, None]:
    """Turn an error of a storage into an `OSError` that says what failed, why, and what to do.

    Not all file systems raise an `OSError`: those of Azure and Google have their own classes.

    `what` could not be done. What to do is `advice`, or `denied` if the storage denies access; by default it is
    what fits the error.

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
        advice = advice or (is_denied(error) and denied) or _ADVICE.get(number, _UNKNOWN)
        filename = getattr(error, "filename", None)
        where = f" ({filename})" if filename else ""
        raise OSError(number, f"{what}: {reason(error)}{where}.\n{advice}") from None


def reason(error: Exception) -> str:
    """What a storage says of an error, without its class and number.

    An error of an object store has no more than a text. It may quote a url, and Azure's goes on for many
    lines.
    """
    text = getattr(error, "strerror", None) or str(error).partition("\n")[0] or repr(error)
    return without_query(text).rstrip(".")


def http_status(error: Exception) -> int | None:
    """The status that an object store answered with, as far as its library tells."""
    status = getattr(error, "status_code", getattr(error, "code", None))  # Azure's; Google's
    return status if isinstance(status, int) else None


def is_denied(error: Exception) -> bool:
    """Whether the storage denies access."""
    # gcsfs has neither a class nor a number for it.
    forbidden = isinstance(error, OSError) and str(error).startswith("Forbidden")
    return isinstance(error, PermissionError) or http_status(error) in (401, 403) or forbidden


def _number(error: Exception) -> int:
    """The number of an error, from which `OSError` chooses the class."""
    number: int | None = getattr(error, "errno", None)
    if number is not None:
        return number
    if is_denied(error):
        return errno.EACCES
    missing = isinstance(error, FileNotFoundError) or http_status(error) == 404
    return errno.ENOENT if missing else errno.EIO
