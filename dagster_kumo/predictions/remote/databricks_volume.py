"""Files in a Unity Catalog volume, `dbfs:/Volumes/catalog/schema/volume/path`: Databricks deployments.

They are read with databricks-sdk, which finds its credentials by itself: `DATABRICKS_HOST` with
`DATABRICKS_TOKEN` or an OAuth client, a profile, or those of the cluster.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dagster_kumo.api.errors import KumoConnectionError, KumoDataError, KumoError, without_query
from dagster_kumo.api.logs import queries_hidden
from dagster_kumo.predictions.files import FetchedFile, data_files
from dagster_kumo.predictions.streams import Lane

if TYPE_CHECKING:
    from databricks.sdk.service.files import FilesAPI

CHUNK_BYTES = 1024**2
# They log presigned urls of the workspace, and its answers about them.
_LOGGERS = ("databricks.sdk", "databricks.sdk.mixins.files", "databricks.sdk.retries")

_SEGMENT = r"(?!\.{1,2}(?:/|$))[^/\x00-\x1f\x7f]+"
_ADDRESS = re.compile(rf"dbfs:(/Volumes/{_SEGMENT}/{_SEGMENT}/{_SEGMENT})((?:/{_SEGMENT})*)/?")


def open_volume(address: str) -> list[FetchedFile]:
    """The Parquet files at an address in a volume.

    Raises:
        KumoError: The extra `databricks` or the credentials are missing.
        KumoDataError: It is not such an address, or there are no Parquet files.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise KumoDataError(
            f"{address!r} is not a path in a volume, dbfs:/Volumes/<catalog>/<schema>/<volume>/<path>."
        )
    volume, path = match[1], match[2].strip("/")
    files = _files_api()
    with _errors(address):
        listed = _listed(files, volume, path)
    return [
        FetchedFile(
            path=f"dbfs:{volume}/{inside}",
            size=listed[inside],
            fetch=partial(_download, files, f"{volume}/{inside}"),
        )
        for inside in data_files(listed, at=path, address=address)
    ]


def _download(files: FilesAPI, path: str, to: Path, lane: Lane) -> None:
    """Stream one file. The SDK resumes broken transfers."""
    with _errors(path), to.open("wb") as file:
        contents = files.download(path).contents
        assert contents is not None
        with contents:
            while chunk := contents.read(CHUNK_BYTES):
                file.write(chunk)
                lane.received(len(chunk))


def _listed(files: FilesAPI, volume: str, path: str) -> dict[str, int | None]:
    """The files at a path: their paths in the volume, and their sizes."""
    from databricks.sdk.errors import NotFound

    at = f"{volume}/{path}".rstrip("/")
    try:
        files.get_directory_metadata(at)
    except NotFound:
        return {path: files.get_metadata(at).content_length}
    found: dict[str, int | None] = {}
    folders = [at]
    while folders:
        folder = folders.pop()
        for entry in files.list_directory_contents(folder):
            below = entry.path or ""
            if not below.startswith(f"{folder}/") or _ADDRESS.fullmatch(f"dbfs:{below}") is None:
                raise KumoDataError(f"Databricks lists {below!r} in {folder}, where it cannot be.")
            if entry.is_directory:
                folders.append(below.rstrip("/"))
            else:
                found[below.removeprefix(f"{volume}/")] = entry.file_size
    return found


def _files_api() -> FilesAPI:
    try:
        from databricks.sdk import WorkspaceClient
    except ImportError:
        raise KumoError(
            "Reading a volume of Databricks needs databricks-sdk: pip install 'dagster-kumo[databricks]'."
        ) from None
    try:
        return WorkspaceClient().files
    except ValueError as error:
        raise KumoError(
            f"There are no credentials for Databricks: {error}\n"
            "Set DATABRICKS_HOST and DATABRICKS_TOKEN, or another way that databricks-sdk knows."
        ) from None


@contextmanager
def _errors(address: str) -> Generator[None, None, None]:
    import requests
    from databricks.sdk.errors import NotFound, PermissionDenied, Unauthenticated
    from databricks.sdk.errors.base import DatabricksError

    try:
        with queries_hidden(*_LOGGERS):
            yield
    except (NotFound, PermissionDenied, Unauthenticated) as error:
        said = without_query(str(error))
        raise KumoDataError(f"Databricks does not give {address}: {said}") from None
    except (DatabricksError, requests.RequestException, TimeoutError) as error:
        raise KumoConnectionError(f"{address} could not be read: {type(error).__name__}") from None
