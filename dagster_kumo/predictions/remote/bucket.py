"""Files in a bucket that is read directly, through fsspec: `s3://`, `gs://`, `abfss://`.

The file system finds its credentials by itself: in the environment, by a role, or in fsspec's
configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from upath import UPath

from dagster_kumo.api.errors import KumoDataError, KumoError, without_query
from dagster_kumo.predictions.files import StoredFile, data_files
from dagster_kumo.predictions.pieces import Changed, fetch_by_pieces
from dagster_kumo.predictions.streams import Lane

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfss": "adlfs"}


@dataclass(frozen=True)
class BucketFile(StoredFile):
    """A file of known length in a bucket of Kumo's."""

    size: int

    def fetch_to(self, to: Path, lane: Lane, columns: Sequence[str] | None = None) -> Path:
        # File systems do not take an ETag with each range: it is compared before and after.
        try:
            before = self._state()
            fetch_by_pieces(self, to, lane, columns)
            if self._state() != before:
                raise Changed
        except Changed:
            raise KumoDataError(f"{self.path} changed while it was read.") from None
        except OSError as error:
            raise KumoDataError(f"{self.path} could not be read: {error}") from None
        return to

    def length(self) -> int:
        return self.size

    def _state(self) -> object:
        """What tells one version of the file from another, such as its ETag."""
        file_system = self.upath.fs
        file_system.invalidate_cache(self.upath.parent.path)
        found: Any = file_system.info(self.upath.path)
        if found["size"] != self.size:
            raise KumoDataError(f"{self.path} had {self.size} bytes, and has {found['size']} now.")
        return file_system.ukey(self.upath.path)


def open_bucket(address: str) -> list[BucketFile]:
    """The Parquet files at an address in a bucket.

    Raises:
        KumoError: The package for that kind of bucket is not installed.
        KumoDataError: It is not such an address, or there are no Parquet files.
    """
    shown = without_query(address).partition("?")[0]
    if "::" in address or "?" in address or ".." in address.split("/"):
        # fsspec would read a second address after "::", which may be a local one.
        raise KumoDataError(f"{shown!r} is not a plain address of a file or folder in a bucket.")
    package = _PACKAGES[address.partition(":")[0]]
    if find_spec(package) is None:
        raise KumoError(f"Reading {shown} needs the package {package}: pip install {package}.")
    try:
        place = UPath(address)
        place.fs.invalidate_cache()
        entries: Any = place.fs.find(place.path, detail=True)
    except Exception as error:  # noqa: BLE001 - each file system has errors of its own
        raise KumoDataError(f"{shown} could not be listed: {without_query(str(error))}") from None
    sizes: dict[str, int] = {path: entry["size"] for path, entry in entries.items()}
    return [
        BucketFile(UPath(place.fs.unstrip_protocol(path)), size=sizes[path])
        for path in data_files(sizes, at=place.path.rstrip("/"), address=shown)
    ]
