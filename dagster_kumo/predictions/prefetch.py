"""Fetch the files of an output before they are read: several at a time, returned in order."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.files import PartitionFile

STREAMS = 4  # connections at a time
READY = 2  # further files that wait on disk: without them, a connection would be idle while a file is read


def prefetch(
    files: Sequence[PartitionFile],
    columns: Sequence[str] | None = None,
    *,
    streams: int = STREAMS,
) -> Generator[tuple[PartitionFile, Path], None, None]:
    """Each file with a local path to read `columns` from. The path is valid until the next one is requested.

    Up to `streams` files are fetched at a time, and up to `READY` others wait on disk. The next one is
    started only when one has been taken, so a slow reader slows down fetching. If there are fewer files
    than streams, they share them. If the reader stops, also by an interrupt, the threads stop and their
    files are removed.
    """
    stop = threading.Event()
    each = max(1, streams // max(1, len(files)))
    waiting: deque[tuple[PartitionFile, Path, Future[Path]]] = deque()
    # Windows removes no file that is open: what cannot be removed is left to the next tidying of the folder.
    with tempfile.TemporaryDirectory(prefix="dagster-kumo-", ignore_cleanup_errors=True) as folder:
        pool = ThreadPoolExecutor(streams, thread_name_prefix="kumo-fetch")

        def fetch(file: PartitionFile, scratch: Path) -> Path:
            if stop.is_set():
                raise KumoDataError(f"The transfer of {file.name} was stopped.")
            return file.fetch_to(scratch, columns, streams=each, stopped=stop.is_set)

        def take() -> Generator[tuple[PartitionFile, Path], None, None]:
            file, scratch, future = waiting.popleft()
            yield file, future.result()
            with contextlib.suppress(OSError):
                scratch.unlink()

        try:
            for index, file in enumerate(files):
                scratch = Path(folder) / f"{index}.parquet"
                waiting.append((file, scratch, pool.submit(fetch, file, scratch)))
                if len(waiting) == streams + READY:
                    yield from take()
            while waiting:
                yield from take()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
