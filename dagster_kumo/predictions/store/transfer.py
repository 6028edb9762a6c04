"""Bring an output into a store: fetch, check, summarise and put its files, several at a time.

Each file takes one path of its own through the steps, on one thread: fetched to a scratch file,
its footer checked, its rows summarised, then moved to its place. There are a few threads more than
files are fetched at a time: the connections are busy while other files are summarised and put.
Memory is bounded by the batches in flight, disk by the files in flight.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.files import PartitionFile, open_parquet
from dagster_kumo.predictions.predictions import BATCH_ROWS
from dagster_kumo.predictions.statistics.anchors import TimeRange, anchor_range, merge_ranges
from dagster_kumo.predictions.statistics.summary import ANCHOR_TIMESTAMP, OutputSummary
from dagster_kumo.predictions.store.store import NewVersion, StoredFileEntry
from dagster_kumo.predictions.store.tables import TableFile

FINISHING = 2  # threads beyond those that fetch
BATCH_VALUES = 1_000_000  # of all columns of a batch


@dataclass
class Transferred:
    """What came over."""

    files: list[StoredFileEntry]
    schema: pa.Schema
    summary: OutputSummary | None
    """None when the statistics were not wanted."""
    anchors: TimeRange | None
    """The earliest and the latest anchor time in the data; None when it has none."""
    seconds: float

    @property
    def num_rows(self) -> int:
        """The rows of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """The length of all files."""
        return sum(file.size_bytes for file in self.files)


@dataclass
class TransferredFile:
    """What one file held."""

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
    """Bring `files` into `version`, which is not committed here.

    Args:
        files: where they come from.
        version: where they go.
        max_parallel: how many connections fetch at the same time; few files share them.
        summarise: whether there are statistics, or of which columns.

    Raises:
        KumoDataError: a file is not Parquet, or the files do not have the same columns.
        KumoConnectionError: a file could not be fetched.
    """
    if not files:
        raise KumoDataError("The output has no files.")
    started = time.monotonic()
    stop = threading.Event()
    file_transfer = FileTransfer(
        version, stop, summarise, max_parallel, streams=max(1, max_parallel // len(files))
    )
    threads = max_parallel + FINISHING
    with ThreadPoolExecutor(threads, thread_name_prefix="kumo-transfer") as pool:
        futures = {
            pool.submit(file_transfer.run, file, index): index for index, file in enumerate(files)
        }
        try:
            done = _collect(futures)
        except BaseException:  # also an interrupt: the threads must end before the scratch files go
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
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
    """Bring one of an output's files into `version`, for those who bring them one by one.

    Args:
        file: where it comes from.
        index: its place among the files.
        version: where it goes.
        streams: over how many connections.
        summarise: whether there are statistics, or of which columns.

    Raises:
        KumoDataError: the file is not Parquet.
        KumoConnectionError: it could not be fetched.
    """
    return FileTransfer(version, threading.Event(), summarise, 1, streams=streams).run(file, index)


def merge_files(
    brought: Sequence[TransferredFile], *, names: Sequence[str], seconds: float
) -> Transferred:
    """All files of an output, which are called `names`; in how many seconds they came.

    Raises:
        KumoDataError: the files do not have the same columns.
    """
    schema = brought[0].schema
    for name, one in zip(names, brought, strict=True):
        if one.schema.names != schema.names:
            raise KumoDataError(
                f"{name} has the columns {', '.join(one.schema.names)}, but "
                f"{names[0]} has {', '.join(schema.names)}."
            )
    return Transferred(
        files=[one.entry for one in brought],
        schema=schema,
        summary=_merged([one.summary for one in brought]),
        anchors=reduce(merge_ranges, (one.anchors for one in brought)),
        seconds=seconds,
    )


def _collect(futures: dict[Future[TransferredFile], int]) -> list[TransferredFile]:
    done: dict[int, TransferredFile] = {}
    for future in as_completed(futures):
        done[futures[future]] = future.result()
    return [done[index] for index in sorted(done)]


class FileTransfer:
    """What each file goes through."""

    def __init__(
        self,
        version: NewVersion,
        stop: threading.Event,
        summarise: bool | Collection[str],
        max_parallel: int,
        *,
        streams: int,
    ) -> None:
        self._version = version
        self._stop = stop
        self._summarise = summarise
        self._fetching = threading.Semaphore(max_parallel)
        # Computing, which more threads than cores do no sooner, and each with batches of its own in memory.
        self._reading = threading.Semaphore(os.cpu_count() or 1)
        self._streams = streams

    def run(self, file: PartitionFile, index: int) -> TransferredFile:
        name = f"part-{index:05d}.parquet"
        scratch = self._version.scratch / f"{name}.partial"
        self._fetch(file, scratch)
        try:
            one = self._read(scratch, name, file.name)
        except KumoDataError:
            if self._stop.is_set() or isinstance(file, TableFile):  # a stream can be read once
                raise
            # Bytes that were damaged on the way are right the second time; damaged at the source, never.
            self._fetch(file, scratch)
            one = self._read(scratch, name, file.name)
        self._go_on(file.name)
        self._version.put(scratch, name)
        return one

    def _fetch(self, file: PartitionFile, to: Path) -> None:
        with self._fetching:
            self._go_on(file.name)
            file.save(to, streams=self._streams, stopped=self._stop.is_set)

    def _read(self, scratch: Path, name: str, source: str) -> TransferredFile:
        """What a fetched file holds; `source` is its name for messages.

        Raises:
            KumoDataError: it is not Parquet, or is damaged.
        """
        anchors: TimeRange | None = None
        with self._reading, open_parquet(scratch, name=source) as parquet:
            schema, rows = parquet.schema_arrow, parquet.metadata.num_rows
            columns = self._columns(schema)
            summary = OutputSummary(schema, columns) if self._summarise else None
            read = None if columns is None else [*columns, ANCHOR_TIMESTAMP]
            for batch in parquet.iter_batches(_batch_rows(parquet.metadata), columns=read):
                self._go_on(source)
                anchors = merge_ranges(anchors, anchor_range(batch))
                if summary is not None:
                    summary.update(batch)
        entry = StoredFileEntry(name=name, num_rows=rows, size_bytes=scratch.stat().st_size)
        return TransferredFile(entry, schema, anchors, summary)

    def _columns(self, schema: pa.Schema) -> list[str] | None:
        """The columns that are summarised; None: all."""
        if isinstance(self._summarise, bool):
            return None if self._summarise else []
        return [name for name in schema.names if name in self._summarise]

    def _go_on(self, name: str) -> None:
        if self._stop.is_set():
            raise KumoDataError(f"The transfer of {name} was stopped.")


def _batch_rows(metadata: pq.FileMetaData) -> int:
    """The rows of a batch whose memory does not depend on how wide the file is."""
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    values = sum(group.column(i).num_values for group in groups for i in range(group.num_columns))
    return max(1, min(BATCH_ROWS, BATCH_VALUES * metadata.num_rows // max(1, values)))


def _merged(summaries: Sequence[OutputSummary | None]) -> OutputSummary | None:
    first, *others = summaries
    for other in others:
        if first is not None and other is not None:
            first.merge(other)
    return first
