"""One file of an output: a stored one, or one that is still with Kumo.

Whatever reads a file reads it on a local disk. A file that lies elsewhere is fetched to a scratch file
first: whole, or the footer and the wanted columns alone (see `pieces`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.pieces import Changed, Known, fetch_by_pieces
from dagster_kumo.predictions.streams import Lane


class PartitionFile(Protocol):
    """The interface of a file for `Predictions`."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def fetch_to(self, to: Path, lane: Lane, columns: Sequence[str] | None = None) -> Path:
        """A local file from which `columns` can be read (None: all, empty: the footer).

        It is `to`, written with bounded memory over the connections of `lane`, or the file itself if it is on
        this machine. Names of columns that the file does not have are ignored. The lane has a watcher, which
        follows how a whole file arrives, if it arrives by pieces.
        """
        ...


IN_LITTLE_MEMORY: dict[str, Any] = {
    "memory_map": False,
    "pre_buffer": False,
    "buffer_size": 256 * 1024,
}
"""How Parquet files are opened.

A memory map's pages would count as memory of the process for as long as the file is open. A buffer filled ahead
would hold all of the file that was read, and no buffer a whole row group, which may be the whole file.
"""


@contextmanager
def open_parquet(
    path: Path | str, *, name: str, metadata: pq.FileMetaData | None = None
) -> Generator[pq.ParquetFile, None, None]:
    """A local file as Parquet. Messages call it `name`. Its `metadata` are not read again where they are known.

    Raises (also for errors in the `with` block):
        KumoDataError: The file is not Parquet, or is damaged.
    """
    try:
        with pq.ParquetFile(str(path), metadata=metadata, **IN_LITTLE_MEMORY) as parquet:
            yield parquet
    except (pa.ArrowException, OSError) as error:
        raise not_parquet(name, error) from None


def groups_of_rows(metadata: pq.FileMetaData, rows: int) -> Iterator[list[int]]:
    """The row groups of a file, as lists that have at least so many rows each, but for the last one."""
    groups: list[int] = []
    found = 0
    for index in range(metadata.num_row_groups):
        groups.append(index)
        found += metadata.row_group(index).num_rows
        if found >= rows:
            yield groups
            groups, found = [], 0
    if groups or not metadata.num_row_groups:
        yield groups


def not_parquet(name: str, error: Exception) -> KumoDataError:
    """The error for a file that pyarrow could not read."""
    return KumoDataError(f"{name} is not a readable Parquet file: {error}")


def is_local(path: UPath) -> bool:
    """Whether a path leads to a disk of this machine."""
    return path.protocol in ("", "file", "local")


@dataclass(frozen=True)
class StoredFile:
    """A file in a store, on a disk or on any fsspec file system."""

    upath: UPath

    @property
    def name(self) -> str:
        return self.upath.name

    @property
    def path(self) -> str:
        return self.upath.path if self.is_local else str(self.upath)

    @property
    def is_local(self) -> bool:
        """Whether the file is on a disk of this machine."""
        return is_local(self.upath)

    def fetch_to(self, to: Path, lane: Lane, columns: Sequence[str] | None = None) -> Path:
        if self.is_local:
            return Path(self.upath.path)
        try:
            fetch_by_pieces(self, to, lane, columns)
        except Changed:
            raise KumoDataError(f"{self.path} changed while it was read.") from None
        except OSError as error:
            raise not_parquet(self.name, error) from None
        return to

    def read(
        self, start: int, end: int | None, write: Callable[[int, bytes], None], known: Known
    ) -> None:
        """See `pieces.Source`. A piece is held in memory."""
        length = self.length()
        start = max(0, length + start) if start < 0 else start
        end = length if end is None else min(end, length)
        known(length, (start, end))
        content: Any = b""
        if start < end:
            content = self.upath.fs.cat_file(self.upath.path, start=start, end=end)
        if len(content) != end - start:
            raise Changed
        write(start, content)

    def length(self) -> int:
        """The length of the file in bytes."""
        return int(self.upath.fs.info(self.upath.path)["size"])


@dataclass(frozen=True)
class FetchedFile:
    """A file of a storage with its own client, which always fetches the whole file to a local disk."""

    path: str
    size: int | None
    fetch: Callable[[Path, Lane], None]
    padding: int = 0
    """How many bytes the storage's stated length may exceed the file's."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    def fetch_to(self, to: Path, lane: Lane, columns: Sequence[str] | None = None) -> Path:  # noqa: ARG002 - there is no other way than whole
        lane.run(lambda: self.fetch(to, lane))
        came = to.stat().st_size
        if self.size is not None and not came <= self.size <= came + self.padding:
            raise KumoDataError(f"{self.path} has {self.size} bytes, but {came} came.")
        return to


def data_files(paths: Iterable[str], *, at: str, address: str) -> list[str]:
    """The paths of the file at `at`, or of the Parquet files in the directory `at`, sorted.

    Storages list by prefix, and `out/a` is also a prefix of `out/ab`. Names that begin with a dot or an
    underscore are not data: engines that write a directory use them for their own files.

    Raises:
        KumoDataError: There are none.
    """
    directory = f"{at}/" if at else ""
    found = [
        path
        for path in paths
        if path == at or (path.startswith(directory) and _is_data(path[len(directory) :]))
    ]
    if not found:
        raise KumoDataError(f"There are no Parquet files at {address}.")
    return sorted(found)


def _is_data(inside: str) -> bool:
    parts = inside.split("/")
    return inside.endswith(".parquet") and not any(part.startswith((".", "_")) for part in parts)
