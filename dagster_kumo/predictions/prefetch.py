"""Fetch the files of an output before they are read: several at a time, returned in order."""

from __future__ import annotations

import contextlib
import tempfile
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dagster_kumo.predictions.files import PartitionFile
from dagster_kumo.predictions.streams import MOST_STREAMS, Streams

READY = 2  # further files that wait on disk: without them, a connection would be idle while a file is read


def prefetch(
    files: Sequence[PartitionFile], columns: Sequence[str] | None = None
) -> Generator[tuple[PartitionFile, Path], None, None]:
    """Each file with a local path to read `columns` from. The path is valid until the next one is requested.

    All connections fetch the earliest files first. A further file is begun only when a connection is idle, and
    while no more than `READY` wait on disk, so a slow reader slows down fetching. If the reader stops, also by
    an interrupt, the threads stop and their files are removed.
    """
    streams = Streams()
    waiting: deque[tuple[PartitionFile, Path, Future[Path]]] = deque()
    # Windows removes no file that is open: what cannot be removed is left to the next tidying of the folder.
    with tempfile.TemporaryDirectory(prefix="dagster-kumo-", ignore_cleanup_errors=True) as folder:
        pool = ThreadPoolExecutor(MOST_STREAMS + READY, thread_name_prefix="kumo-fetch")

        def take() -> Generator[tuple[PartitionFile, Path], None, None]:
            file, scratch, future = waiting.popleft()
            yield file, future.result()
            with contextlib.suppress(OSError):
                scratch.unlink()

        try:
            for index, file in enumerate(files):
                scratch = Path(folder) / f"{index}.parquet"
                lane = streams.lane(index, file)
                waiting.append((file, scratch, pool.submit(file.fetch_to, scratch, lane, columns)))
                while len(waiting) >= streams.limit + READY:
                    yield from take()
            while waiting:
                yield from take()
        finally:
            streams.stop()
            pool.shutdown(cancel_futures=True)
            streams.close()
