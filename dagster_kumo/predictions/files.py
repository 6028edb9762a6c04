"""One partition file of an output, opened as Parquet: a stored one, or one that is still with Kumo."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from upath import UPath

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.download import RemoteFile

FOOTER_GUESS_BYTES = 64 * 1024  # the footer of a prediction file fits, so that one request gets it


def never() -> bool:
    """The answer of `stopped` where nobody stops."""
    return False


class PartitionFile(Protocol):
    """What `Predictions` needs of a file."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    def open(self, *, whole: bool) -> AbstractContextManager[pq.ParquetFile]:
        """Open the file; `whole` says that all of it is going to be read."""
        ...

    def save(self, to: Path, *, stopped: Callable[[], bool] = ...) -> None:
        """Write the file's bytes to a local path with bounded memory; `stopped` ends it early."""
        ...


def read_footer(path: Path | str, *, name: str) -> pq.FileMetaData:
    """The Parquet footer of a local file.

    Raises:
        KumoDataError: the file is not Parquet, or is damaged.
    """
    try:
        return pq.read_metadata(str(path))
    except (pa.ArrowException, OSError) as error:
        raise not_parquet(name, error) from None


def not_parquet(name: str, error: Exception) -> KumoDataError:
    """The error for a file that pyarrow could not read."""
    return KumoDataError(f"{name} is not a readable Parquet file: {error}")


@dataclass(frozen=True)
class StoredFile:
    """A file in a store, on a disk or on any fsspec file system."""

    upath: UPath

    @property
    def name(self) -> str:
        return self.upath.name

    @property
    def path(self) -> str:
        return str(self.upath)

    @contextmanager
    def open(self, *, whole: bool) -> Generator[pq.ParquetFile, None, None]:  # noqa: ARG002 - a store is read in parts as cheaply as whole
        if self.upath.protocol in ("", "file", "local"):
            with _as_parquet(self.upath.path, self.name, memory_map=True) as parquet:
                yield parquet
        else:
            try:
                file = self.upath.open("rb")
            except OSError as error:
                raise not_parquet(self.name, error) from None
            with file, _as_parquet(file, self.name) as parquet:
                yield parquet

    def save(self, to: Path, *, stopped: Callable[[], bool] = never) -> None:  # noqa: ARG002 - fsspec copies in one call
        self.upath.fs.get_file(self.upath.path, str(to))


@dataclass(frozen=True)
class LiveFile:
    """A file that is still with Kumo."""

    remote: RemoteFile

    @property
    def name(self) -> str:
        return self.remote.name

    @property
    def path(self) -> str:
        return self.remote.addresses.get(self.remote.index)

    @contextmanager
    def open(self, *, whole: bool) -> Generator[pq.ParquetFile, None, None]:
        if whole:
            with tempfile.TemporaryDirectory(prefix="dagster-kumo-") as folder:
                local = Path(folder) / "part.parquet"
                self.remote.download(local)
                with _as_parquet(str(local), self.name, memory_map=True) as parquet:
                    yield parquet
        else:
            reader = io.BufferedReader(_RangeReader(self.remote), FOOTER_GUESS_BYTES)
            with _as_parquet(reader, self.name, pre_buffer=True) as parquet:
                yield parquet

    def save(self, to: Path, *, stopped: Callable[[], bool] = never) -> None:
        self.remote.download(to, stopped=stopped)


@dataclass(frozen=True)
class FetchedFile:
    """A file of a storage that is read with a client of its own: always whole, to a local disk."""

    path: str
    size: int | None
    fetch: Callable[[Path, Callable[[], bool]], None]
    padding: int = 0
    """How much longer than the file the storage may call it."""

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @contextmanager
    def open(self, *, whole: bool) -> Generator[pq.ParquetFile, None, None]:  # noqa: ARG002 - there is no other way
        with tempfile.TemporaryDirectory(prefix="dagster-kumo-") as folder:
            local = Path(folder) / "part.parquet"
            self.save(local)
            with _as_parquet(str(local), self.name, memory_map=True) as parquet:
                yield parquet

    def save(self, to: Path, *, stopped: Callable[[], bool] = never) -> None:
        self.fetch(to, stopped)
        came = to.stat().st_size
        if self.size is not None and not came <= self.size <= came + self.padding:
            raise KumoDataError(f"{self.path} has {self.size} bytes, but {came} came.")


def data_files(paths: Iterable[str], *, at: str, address: str) -> list[str]:
    """Those of `paths` that are the file at `at`, or Parquet files in the directory there, sorted.

    Storages list by the beginning of a name, and `out/a` begins `out/ab` too. Names that begin with
    a dot or an underscore are not data: what writes a directory keeps its own notes under those.

    Raises:
        KumoDataError: there are none.
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


@contextmanager
def _as_parquet(
    source: Any, name: str, *, memory_map: bool = False, pre_buffer: bool = False
) -> Generator[pq.ParquetFile, None, None]:
    try:
        parquet = pq.ParquetFile(source, memory_map=memory_map, pre_buffer=pre_buffer)
    except (pa.ArrowException, OSError) as error:
        raise not_parquet(name, error) from None
    with parquet:
        yield parquet


class _RangeReader(io.RawIOBase):
    """A remote file as a seekable one: each read is a range request, the footer is kept.

    Presigned urls are made for GET alone, so the length comes with the first range and not by HEAD.
    """

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        tail = remote.read_range(None, FOOTER_GUESS_BYTES)
        self._tail, self._length, self._etag = tail.content, tail.whole_length, tail.etag
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # pyright: ignore[reportIncompatibleMethodOverride] - io's own stub names it differently
        wanted = min(len(buffer), self._length - self._position)
        if wanted <= 0:
            return 0
        tail_start = self._length - len(self._tail)
        if self._position >= tail_start:
            begin = self._position - tail_start
            data = self._tail[begin : begin + wanted]
        else:
            data = self._remote.read_range(self._position, wanted, etag=self._etag).content
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)
