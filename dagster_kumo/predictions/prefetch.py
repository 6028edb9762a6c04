"""Fetch the files of an output before they are read: several at a time, returned in order."""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dagster_kumo.predictions.arrival import Arrival
from dagster_kumo.predictions.files import PartitionFile
from dagster_kumo.predictions.streams import MOST_STREAMS, Lane, Streams

READY = 2  # further files that wait on disk: without them, a connection would be idle while a file is read


def prefetch(
    files: Sequence[PartitionFile], columns: Sequence[str] | None = None, *, early: bool = False
) -> Generator[tuple[PartitionFile, Path, Arrival | None], None, None]:
    """Each file with a local path to read `columns` from. The path is valid until the next one is requested.

    With `early` a file comes before it is complete, and its `Arrival` opens it. It is None for a complete file.

    All connections fetch the earliest files first. A further file is begun only when a connection is idle, and
    while no more than `READY` wait on disk, so a slow reader slows down fetching. If the reader stops, also by
    an interrupt, the threads stop and their files are removed.
    """
    streams = Streams()
    waiting: deque[tuple[PartitionFile, Path, Arrival | None, Future[Path]]] = deque()
    # Windows removes no file that is open: what cannot be removed is left to the next tidying of the folder.
    with tempfile.TemporaryDirectory(prefix="dagster-kumo-", ignore_cleanup_errors=True) as folder:
        pool = ThreadPoolExecutor(MOST_STREAMS + READY, thread_name_prefix="kumo-fetch")

        def take() -> Generator[tuple[PartitionFile, Path, Arrival | None], None, None]:
            file, scratch, arrival, future = waiting.popleft()
            if arrival is not None and arrival.begins():
                yield file, scratch, arrival
            else:
                yield file, future.result(), None
            with contextlib.suppress(OSError):
                scratch.unlink()

        try:
            for index, file in enumerate(files):
                scratch = Path(folder) / f"{index}.parquet"
                lane = Lane(streams, index, file.name)
                lane.watcher = arrival = Arrival(scratch, file.name) if early else None
                future = pool.submit(file.fetch_to, scratch, lane, columns)
                if arrival is not None:
                    arrival.follow(future)
                waiting.append((file, scratch, arrival, future))
                while len(waiting) >= streams.limit + READY:
                    yield from take()
            while waiting:
                yield from take()
        finally:
            streams.stop()
            pool.shutdown(cancel_futures=True)
            streams.close()
