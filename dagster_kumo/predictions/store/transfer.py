"""Store an output: fetch, check and summarise its files and move them to their place.

All connections fetch the earliest files first, by pieces (see `streams` and `pieces`). The rows of a file are
summarised by row groups, on all cores, each group as soon as it has arrived. When a file is whole and checked, it
is moved to its place. Memory is bounded by a batch of rows for each core and a chunk for each connection, and the
disk by the files in progress.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.files import PartitionFile
from dagster_kumo.predictions.prefetch import prefetch
from dagster_kumo.predictions.schemas import unify
from dagster_kumo.predictions.statistics.anchors import TimeRange, merge_ranges
from dagster_kumo.predictions.statistics.row_groups import FileSummary, RowGroups
from dagster_kumo.predictions.statistics.stored_statistics import StoredStatistics
from dagster_kumo.predictions.statistics.summary import OutputSummary
from dagster_kumo.predictions.store.manifest import StoredFileEntry
from dagster_kumo.predictions.store.store import NewVersion
from dagster_kumo.predictions.store.tables import StreamError, TableFile
from dagster_kumo.predictions.streams import Lane, Streams

FINISHING = 2  # files that are summarised or moved, in addition to those that are fetched


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
    _statistics: StoredStatistics | None = None

    def statistics(self, entities: int | None) -> StoredStatistics | None:
        """The statistics in the form in which they are stored, made once; None if none were requested.

        `entities` is for how many the job says that it predicted.
        """
        if self._statistics is None and self.summary is not None:
            self._statistics = StoredStatistics.of(self.summary, self.anchors, entities=entities)
        return self._statistics

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

    At most `max_parallel` connections fetch at the same time. `summarise` says whether to compute statistics, or
    of which columns.

    Raises:
        KumoDataError: A file is not Parquet, or the files cannot be read with one schema.
        KumoConnectionError: A file could not be fetched.
    """
    if not files:
        raise KumoDataError("The output has no files.")
    started = time.monotonic()
    done = _transfer(dict(enumerate(files)), version, max_parallel, summarise)
    names = [file.name for file in files]
    return merge_files(done, names=names, seconds=time.monotonic() - started)


def transfer_file(
    file: PartitionFile,
    index: int,
    version: NewVersion,
    *,
    max_parallel: int,
    summarise: bool | Collection[str] = True,
) -> TransferredFile:
    """Put the file at `index` of an output into `version`, for callers that transfer them one by one.

    The arguments and errors are those of `transfer`.
    """
    return _transfer({index: file}, version, max_parallel, summarise)[0]


def read_stored(
    files: Sequence[PartitionFile], *, summarise: bool | Collection[str] = True
) -> Transferred:
    """The result of an earlier transfer, from the files that it has stored.

    Raises:
        KumoDataError: A file is not there any more, or is damaged.
    """
    started = time.monotonic()
    read: list[TransferredFile] = []
    with _cores() as cores, closing(prefetch(files)) as fetched:
        for file, path, _ in fetched:
            groups = RowGroups(path, file.path, cores, summarise)
            read.append(_transferred(groups.finish(), path, file.name))
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


def _transfer(
    files: Mapping[int, PartitionFile],
    version: NewVersion,
    max_parallel: int,
    summarise: bool | Collection[str],
) -> list[TransferredFile]:
    """Put files, by their position in the output, into a version."""
    streams = Streams(max_parallel)
    pool = ThreadPoolExecutor(max_parallel + FINISHING, thread_name_prefix="kumo-transfer")
    with _cores() as cores:
        one = _FileTransfer(version, cores, summarise)
        try:
            futures = [
                pool.submit(one.run, file, index, Lane(streams, index, file.name))
                for index, file in files.items()
            ]
            for future in as_completed(futures):
                future.result()
            return [future.result() for future in futures]
        finally:  # the threads must end before the scratch files are removed
            streams.stop()
            pool.shutdown(cancel_futures=True)
            streams.close()


def _cores() -> ThreadPoolExecutor:
    """Threads that compute. More than cores would not be faster, and each one holds a batch in memory."""
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="kumo-core")


def _transferred(summary: FileSummary, path: Path, name: str) -> TransferredFile:
    entry = StoredFileEntry(name=name, num_rows=summary.rows, size_bytes=path.stat().st_size)
    return TransferredFile(entry, summary.schema, summary.anchors, summary.summary)


@dataclass(frozen=True)
class _FileTransfer:
    """The steps of one file: fetch, check, summarise, put."""

    version: NewVersion
    cores: ThreadPoolExecutor
    summarise: bool | Collection[str]

    def run(self, file: PartitionFile, index: int, lane: Lane) -> TransferredFile:
        name = f"part-{index:05d}.parquet"
        scratch = self.version.scratch / f"{name}.partial"
        with closing(RowGroups(scratch, file.name, self.cores, self.summarise, lane.check)) as rows:
            lane.watcher = rows
            self._fetch(file, scratch, lane)
            try:
                summary = rows.finish()
            except KumoDataError:
                lane.check()
                if isinstance(file, TableFile):  # a stream can be read once
                    raise
                # If the file was damaged during the transfer, a second one helps.
                rows.begin(0)
                self._fetch(file, scratch, lane)
                summary = rows.finish()
        one = _transferred(summary, scratch, name)
        lane.check()
        self.version.put(scratch, name)
        return one

    def _fetch(self, file: PartitionFile, to: Path, lane: Lane) -> None:
        lane.check()
        try:
            with self.version.scratch_errors():
                path = file.fetch_to(to, lane)
                if path != to:
                    shutil.copyfile(path, to)
        except StreamError as error:
            raise error.cause from None
