"""Files in a bucket that is read directly, through fsspec: `s3://`, `gs://`, `abfss://`.

The file system finds its credentials by itself: in the environment, by a role, or in fsspec's
configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from upath import UPath

from dagster_kumo.api.errors import KumoDataError, KumoError, without_query
from dagster_kumo.api.snowflake import SnowflakeAccount
from dagster_kumo.predictions.files import StoredFile, data_files, never

BLOCK_BYTES = 8 * 1024**2

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfss": "adlfs"}


@dataclass(frozen=True)
class BucketFile(StoredFile):
    """A file of known length in a bucket of Kumo's."""

    size: int

    def save(self, to: Path, *, streams: int = 1, stopped: Callable[[], bool] = never) -> None:  # noqa: ARG002 - one stream each
        written = 0
        try:
            source = self.upath.open("rb", block_size=BLOCK_BYTES, cache_type="readahead")
            with source, to.open("wb") as file:
                while chunk := source.read(BLOCK_BYTES):
                    written += file.write(chunk)
                    if stopped():
                        raise KumoDataError(f"The transfer of {self.name} was stopped.")
        except OSError as error:
            raise KumoDataError(f"{self.path} could not be read: {error}") from None
        if written != self.size:
            raise KumoDataError(f"{self.path} has {self.size} bytes, but {written} came.")


def open_bucket(address: str, snowflake: SnowflakeAccount | None) -> list[BucketFile]:  # noqa: ARG001 - see `locations.OPENERS`
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
