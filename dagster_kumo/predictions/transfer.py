"""Bring an output into a store: fetch, check, summarise and put its files, several at a time.

Each file takes one path of its own through the steps, on one thread: fetched to a scratch file,
its footer checked, its rows summarised, then moved to its place. Memory is bounded by the batches
in flight, disk by the files in flight.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.anchors import Extremes, anchor_extremes, widest
from dagster_kumo.predictions.files import PartitionFile, not_parquet, read_footer
from dagster_kumo.predictions.predictions import BATCH_ROWS
from dagster_kumo.predictions.statistics import OutputSummary
from dagster_kumo.predictions.store import NewVersion, StoredFileEntry
from dagster_kumo.predictions.tables import TableFile


@dataclass
class Transferred:
    """What came over."""

    files: list[StoredFileEntry]
    schema: pa.Schema
    summary: OutputSummary | None
    """None when the statistics were not wanted."""
    anchors: Extremes | None
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
class _One:
    entry: StoredFileEntry
    schema: pa.Schema
    anchors: Extremes | None
    summary: OutputSummary | None


def transfer(
    files: Sequence[PartitionFile],
    version: NewVersion,
    *,
    max_parallel: int,
    summarise: bool = True,
) -> Transferred:
    """Bring `files` into `version`, which is not committed here.

    Raises:
        KumoDataError: a file is not Parquet, or the files do not have the same columns.
        KumoConnectionError: a file could not be fetched.
    """
    if not files:
        raise KumoDataError("The output has no files.")
    started = time.monotonic()
    stop = threading.Event()
    with ThreadPoolExecutor(max_parallel, thread_name_prefix="kumo-transfer") as pool:
        futures = {
            pool.submit(_bring, file, index, version, stop, summarise): index
            for index, file in enumerate(files)
        }
        try:
            done = _collect(futures)
        except BaseException:  # also an interrupt: the threads must end before the scratch files go
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise
    schema = done[0].schema
    for index, one in enumerate(done):
        if one.schema.names != schema.names:
            raise KumoDataError(
                f"{files[index].name} has the columns {', '.join(one.schema.names)}, but "
                f"{files[0].name} has {', '.join(schema.names)}."
            )
    return Transferred(
        files=[one.entry for one in done],
        schema=schema,
        summary=_merged([one.summary for one in done]),
        anchors=reduce(widest, (one.anchors for one in done)),
        seconds=time.monotonic() - started,
    )


def _collect(futures: dict[Future[_One], int]) -> list[_One]:
    done: dict[int, _One] = {}
    for future in as_completed(futures):
        done[futures[future]] = future.result()
    return [done[index] for index in sorted(done)]


def _bring(
    file: PartitionFile,
    index: int,
    version: NewVersion,
    stop: threading.Event,
    summarise: bool,
) -> _One:
    name = f"part-{index:05d}.parquet"
    scratch = version.scratch / f"{name}.partial"
    file.save(scratch, stopped=stop.is_set)
    try:
        one = _read(scratch, name, file.name, stop, summarise)
    except KumoDataError:
        if stop.is_set() or isinstance(file, TableFile):  # a stream can be read once
            raise
        # Bytes that were damaged on the way are right the second time; damaged at the source, never.
        file.save(scratch, stopped=stop.is_set)
        one = _read(scratch, name, file.name, stop, summarise)
    version.put(scratch, name)
    return one


def _read(scratch: Path, name: str, source: str, stop: threading.Event, summarise: bool) -> _One:
    """What a fetched file holds; `source` is its name for messages.

    Raises:
        KumoDataError: it is not Parquet, or is damaged.
    """
    footer = read_footer(scratch, name=source)
    with pq.ParquetFile(str(scratch), memory_map=True) as parquet:
        try:
            anchors = anchor_extremes(parquet)
            summary = _summarise(parquet, stop) if summarise else None
        except (pa.ArrowException, OSError) as error:
            raise not_parquet(source, error) from None
        schema = parquet.schema_arrow
    entry = StoredFileEntry(name=name, num_rows=footer.num_rows, size_bytes=scratch.stat().st_size)
    return _One(entry, schema, anchors, summary)


def _summarise(parquet: pq.ParquetFile, stop: threading.Event) -> OutputSummary:
    summary = OutputSummary(parquet.schema_arrow)
    for batch in parquet.iter_batches(BATCH_ROWS):
        if stop.is_set():
            raise KumoDataError("The transfer was stopped.")
        summary.update(batch)
    return summary


def _merged(summaries: Sequence[OutputSummary | None]) -> OutputSummary | None:
    first, *others = summaries
    for other in others:
        if first is not None and other is not None:
            first.merge(other)
    return first
