"""The folder of the whole store, from `base_path` and `storage_options`, and its validation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from dagster_kumo.execution.masked_secrets import from_environment
from dagster_kumo.predictions.store.storage_errors import http_status, reason

if TYPE_CHECKING:
    from upath import UPath

# Words in the names of secret options. Values of all other options are shown, because they tell
# what is wrong.
_SECRET = re.compile("key|secret|token|pass|credential|connection_string|sas", re.IGNORECASE)
SHORTEST_SECRET = 6
_DISK = ("file", "local")
_READ_ONLY = ("data", "github", "http", "https", "tar", "zip")


def store_root(base_path: str, storage_options: Mapping[str, Any]) -> UPath:
    """The folder of the whole store; `~` is the home folder of the user that Dagster runs as.

    Raises:
        ValueError: They name no storage, or contain a password that everybody could see.
    """
    from upath import UPath

    from dagster_kumo.predictions.files import is_local

    _check_form(base_path)
    options = from_environment("storage_options", storage_options)
    scheme, separator, rest = base_path.partition("://")
    if separator:  # as on a disk, slashes that follow each other are one
        rest = re.sub("/+", "/", rest)
    try:
        root = UPath(scheme + separator + rest, **options)
        _ = root.fs  # imports what the scheme needs
        if is_local(root):
            path = root.path if root.protocol else base_path
            root = UPath(Path(path).expanduser().absolute())
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        raise ValueError(_explained(base_path, options, error)) from None
    if root.protocol in _READ_ONLY:
        raise ValueError(f"base_path {base_path!r}: {root.protocol} is for reading only.")
    return root


def check_usable(root: UPath, base_path: str, storage_options: Mapping[str, Any]) -> None:
    """Check that something can be stored below `root`, as far as one call can tell.

    Raises:
        ValueError: Nothing can: a file is in the way, there is no such bucket, or the options are not
            those of the file system.
    """
    if not root.protocol:
        path = Path(root.path)
        try:
            there = next(folder for folder in (path, *path.parents) if folder.exists())
        except OSError as error:
            raise ValueError(f"base_path {base_path!r}: {error}. Choose another folder.") from None
        if not there.is_dir():
            raise ValueError(f"base_path {base_path!r}: {there} is a file. Choose a folder.")
        return
    try:
        # As manifests are read: that needs no permission beyond those of the store itself.
        root.fs.cat_file((root / "manifest.json").path)
    except OSError as error:
        # Other errors are clearer when a file is really read or written.
        if re.search(
            r"specified (bucket|container) (does not exist|is not valid)",
            f"{error} {error.__cause__}",
        ):
            raise ValueError(
                f"base_path {base_path!r}: there is no such bucket or container. Create it, or correct the name."
            ) from None
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        if http_status(error) in (None, 401, 403):  # other answers may be temporary
            raise ValueError(
                _explained(base_path, from_environment("storage_options", storage_options), error)
            ) from None


def _check_form(base_path: str) -> None:
    if not base_path.strip():
        raise ValueError(
            "base_path is empty. Name the folder to store in: a path, or a url such as s3://bucket/folder."
        )
    if urlsplit(base_path).password is not None:
        # It would be shown in Dagster's UI and be a part of every path in the logs.
        raise ValueError(
            "base_path holds a password, which everybody would see.\n"
            "Give it in storage_options, which are hidden."
        )
    scheme, colon, rest = base_path.partition(":")
    if not colon or len(scheme) < 2 or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        return
    from fsspec import available_protocols

    known = available_protocols()
    if scheme in known and rest.startswith(":"):
        raise ValueError(
            f"base_path {base_path!r} names a file system inside another. Name the one to store in alone."
        )
    if scheme not in known and scheme.lower() in known:
        raise ValueError(
            f"base_path {base_path!r}: write the scheme in small letters, {scheme.lower()}:{rest}"
        )
    if scheme in known and not rest.startswith("//"):
        raise ValueError(
            f"base_path {base_path!r}: two slashes follow the scheme. Write {scheme}://"
            f"{rest if scheme in _DISK else rest.lstrip('/')}"
            f"{', or the path without the scheme' if scheme in _DISK else ''}."
        )


def _explained(base_path: str, options: Mapping[str, Any], error: Exception) -> str:
    """Why a place cannot be used, without what is secret in its options."""
    if isinstance(error, ImportError):  # fsspec's words, such as "Install s3fs to access S3"
        return f"base_path {base_path!r} cannot be used: {error}"
    why = f"{type(error).__name__}: {reason(error)}"
    for secret in _secrets(options):
        why = why.replace(secret, "***")
    return f"base_path {base_path!r} cannot be used with these storage_options. {why}"


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    """The values whose names say that they are secret. To mask a short one would mangle the message."""
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(cast(Mapping[str, Any], value))
        elif isinstance(value, str) and len(value) >= SHORTEST_SECRET and _SECRET.search(name):
            yield value
