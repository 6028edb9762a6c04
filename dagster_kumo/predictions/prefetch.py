"""Fetch the files of an output ahead of who reads them: several at once, handed out in order."""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.files import PartitionFile

STREAMS = 4  # connections at a time
READY = 2  # files that wait on disk besides: else a connection is idle whenever one is read


def prefetch(
    files: Sequence[PartitionFile],
    columns: Sequence[str] | None = None,
    *,
    streams: int = STREAMS,
) -> Generator[tuple[PartitionFile, Path], None, None]:
    """Each file with a local path to read `columns` from, which holds until the next one is asked for.

    Up to `streams` files are fetched at a time, no more than `READY` others wait on disk, and another
    one is begun only when one was taken: a slow reader slows the fetching. Few files share the
    streams. Whoever stops reading, also by an interrupt, stops the threads and removes what they
    fetched.
    """
    stop = threading.Event()
    each = max(1, streams // max(1, len(files)))
    waiting: deque[tuple[PartitionFile, Path, Future[Path]]] = deque()
    with tempfile.TemporaryDirectory(prefix="dagster-kumo-") as folder:
        pool = ThreadPoolExecutor(streams, thread_name_prefix="kumo-fetch")

        def fetch(file: PartitionFile, scratch: Path) -> Path:
            if stop.is_set():
                raise KumoDataError(f"The transfer of {file.name} was stopped.")
            return file.fetch_to(scratch, columns, streams=each, stopped=stop.is_set)

        def take() -> Generator[tuple[PartitionFile, Path], None, None]:
            file, scratch, future = waiting.popleft()
            yield file, future.result()
            scratch.unlink(missing_ok=True)

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
