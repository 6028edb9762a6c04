"""Store an output: fetch, check and summarise its files and move them to their place, several at a time.

Each file goes through all steps on one thread: it is fetched to a scratch file, its footer is checked, its rows
are summarised, and it is moved to its place. There are a few more threads than connections, so that the
connections stay busy while other files are summarised and moved. Memory is bounded by the batches in progress,
and the disk by the files in progress.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.columns import ANCHOR_TIMESTAMP
from dagster_kumo.predictions.files import PartitionFile, open_parquet
from dagster_kumo.predictions.predictions import BATCH_ROWS
from dagster_kumo.predictions.schemas import check_names, unify
from dagster_kumo.predictions.statistics.anchors import TimeRange, anchor_range, merge_ranges
from dagster_kumo.predictions.statistics.summary import OutputSummary
from dagster_kumo.predictions.store.manifest import StoredFileEntry
from dagster_kumo.predictions.store.store import NewVersion
from dagster_kumo.predictions.store.tables import StreamError, TableFile

FINISHING = 2  # threads in addition to those that fetch
BATCH_VALUES = 1_000_000  # of all columns of a batch


@dataclass
class Transferred:
    """The result of a transfer."""

    files: list[StoredFileEntry]
    schema: pa.Schema
    summary: OutputSummary | None
    """None if no statistics were requested."""
    anchors: TimeRange | None
    """The earliest and the latest anchor time in the data; None if there are none."""
    seconds: float

    @property
    def num_rows(self) -> int:
        """The rows of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """The size of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass
class TransferredFile:
    """The result of the transfer of one file."""

    entry: StoredFileEntry
    schema: pa.Schema
    anchors: TimeRange | None
    summary: OutputSummary | None


def transfer(
    files: Sequence[PartitionFile],
    version: NewVersion,
    *,
    max_parallel: int,
    summarise: bool | Collection[str] = True,
) -> Transferred:
    """Put `files` into `version`, which is not committed here.

    Args:
        files: The files of an output.
        version: Where to put them.
        max_parallel: How many connections fetch at the same time. Fewer files share them.
        summarise: Whether to compute statistics, or of which columns.

    Raises:
        KumoDataError: A file is not Parquet, or the files cannot be read with one schema.
        KumoConnectionError: A file could not be fetched.
    """
    if not files:
        raise KumoDataError("The output has no files.")
    started = time.monotonic()
    stop = threading.Event()
    one = FileTransfer(
        version, stop, summarise, max_parallel, streams=max(1, max_parallel // len(files))
    )
    threads = max_parallel + FINISHING
    with ThreadPoolExecutor(threads, thread_name_prefix="kumo-transfer") as pool:
        futures = [pool.submit(one.run, file, index) for index, file in enumerate(files)]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:  # the threads must end before the scratch files are removed
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    done = [future.result() for future in futures]
    names = [file.name for file in files]
    return merge_files(done, names=names, seconds=time.monotonic() - started)


def transfer_file(
    file: PartitionFile,
    index: int,
    version: NewVersion,
    *,
    streams: int,
    summarise: bool | Collection[str] = True,
) -> TransferredFile:
    """Put one of an output's files into `version`, for callers that transfer them one by one.

    Args:
        file: The file.
        index: Its position among the files.
        version: Where to put it.
        streams: Over how many connections to fetch it.
        summarise: Whether to compute statistics, or of which columns.

    Raises:
        KumoDataError: The file is not Parquet.
        KumoConnectionError: It could not be fetched.
    """
    return FileTransfer(version, threading.Event(), summarise, 1, streams=streams).run(file, index)


def read_stored(
    files: Sequence[PartitionFile], *, summarise: bool | Collection[str] = True
) -> Transferred:
    """The result of an earlier transfer, from the files that it has stored.

    Raises:
        KumoDataError: A file is not there any more, or is damaged.
    """
    started = time.monotonic()
    reader = FileReader(threading.Event(), summarise)
    read: list[TransferredFile] = []
    for file in files:
        with tempfile.TemporaryDirectory(prefix="dagster-kumo-") as scratch:
            path = file.fetch_to(Path(scratch) / file.name)
            read.append(reader.read(path, file.name, file.path))
    names = [file.path for file in files]
    return merge_files(read, names=names, seconds=time.monotonic() - started)


def merge_files(
    files: Sequence[TransferredFile], *, names: Sequence[str], seconds: float
) -> Transferred:
    """Merge the results of an output's files. `names` are their names in messages, `seconds` the time they took.

    Raises:
        KumoDataError: The files cannot be read with one schema.
    """
    rows = [file.entry.num_rows for file in files]
    schema = unify([file.schema for file in files], names, rows)
    summaries = [file.summary for file in files if file.summary is not None]
    return Transferred(
        files=[file.entry for file in files],
        schema=schema,
        summary=OutputSummary.merged(schema, summaries) if summaries else None,
        anchors=reduce(merge_ranges, (file.anchors for file in files)),
        seconds=seconds,
    )


class FileReader:
    """Checks and summarises files."""

    def __init__(self, stop: threading.Event, summarise: bool | Collection[str]) -> None:
        self._stop = stop
        self._summarise = summarise
        # More threads than cores would not compute faster, and each one holds batches in memory.
        self._reading = threading.Semaphore(os.cpu_count() or 1)

    def read(self, path: Path, name: str, source: str) -> TransferredFile:
        """Check and summarise a file on a local disk; `source` is its name for messages.

        Raises:
            KumoDataError: It is not Parquet, is damaged, or has two columns of the same name.
        """
        anchors: TimeRange | None = None
        with self._reading, open_parquet(path, name=source) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
            check_names(schema, source)
            columns = self._columns(schema)
            summary = OutputSummary(schema, columns) if self._summarise else None
            read = None if columns is None else [*columns, ANCHOR_TIMESTAMP]
            for batch in parquet.iter_batches(_batch_rows(parquet.metadata), columns=read):
                self.check_not_stopped(source)
                anchors = merge_ranges(anchors, anchor_range(batch))
                if summary is not None:
                    summary.update(batch)
        if summary is not None:
            summary.compact()
        entry = StoredFileEntry(name=name, num_rows=rows, size_bytes=path.stat().st_size)
        return TransferredFile(entry, schema, anchors, summary)

    def _columns(self, schema: pa.Schema) -> list[str] | None:
        """The columns to summarise; None for all."""
        if isinstance(self._summarise, bool):
            return None if self._summarise else []
        return [name for name in schema.names if name in self._summarise]

    def check_not_stopped(self, name: str) -> None:
        if self._stop.is_set():
            raise KumoDataError(f"The transfer of {name} was stopped.")


class FileTransfer(FileReader):
    """The steps of one file: fetch, check, summarise, put."""

    def __init__(
        self,
        version: NewVersion,
        stop: threading.Event,
        summarise: bool | Collection[str],
        max_parallel: int,
        *,
        streams: int,
    ) -> None:
        super().__init__(stop, summarise)
        self._version = version
        self._fetching = threading.Semaphore(max_parallel)
        self._streams = streams

    def run(self, file: PartitionFile, index: int) -> TransferredFile:
        name = f"part-{index:05d}.parquet"
        scratch = self._version.scratch / f"{name}.partial"
        self._fetch(file, scratch)
        try:
            one = self.read(scratch, name, file.name)
        except KumoDataError:
            if self._stop.is_set() or isinstance(file, TableFile):  # a stream can be read once
                raise
            # If the file was damaged during the transfer, a second one helps.
            self._fetch(file, scratch)
            one = self.read(scratch, name, file.name)
        self.check_not_stopped(file.name)
        self._version.put(scratch, name)
        return one

    def _fetch(self, file: PartitionFile, to: Path) -> None:
        with self._fetching:
            self.check_not_stopped(file.name)
            try:
                with self._version.scratch_errors():
                    file.save(to, streams=self._streams, stopped=self._stop.is_set)
            except StreamError as error:
                raise error.cause from None


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """The number of rows in a batch, so that its memory does not depend on the width of the file."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    return max(1, min(BATCH_ROWS, BATCH_VALUES * metadata.num_rows // max(1, values)))
