"""A Parquet file while it arrives: which of its row groups can be read already."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.files import IN_LITTLE_MEMORY, not_parquet, open_parquet
from dagster_kumo.predictions.pieces import chunk_span, footer_start, joined
from dagster_kumo.predictions.streams import Span


class Outdated(Exception):
    """A file has begun to arrive again after rows of it were read."""


class Arrival:
    """Follows a file that arrives at `path`. It is a `streams.Watcher`."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._changed = threading.Condition()
        self._transfer: Future[Any] | None = None
        self._begun = 0
        self.begin(0)

    def begin(self, length: int) -> None:
        """Forget everything: a file of this length begins to arrive."""
        with self._changed:
            self._begun += 1
            self._length = length
            self._spans: list[Span] = []
            self._footer: tuple[pq.FileMetaData, pa.Schema] | None = None
            self._changed.notify_all()

    def arrived(self, span: Span) -> None:
        """These bytes are there."""
        with self._changed:
            self._spans = joined([*self._spans, span])
            if self._footer is None and self.has((self._length - 8, self._length)):
                with contextlib.suppress(KumoDataError):  # who reads the whole file will say so
                    if self.has((footer_start(self._path, self._name), self._length)):
                        self.read_footer()
            self._changed.notify_all()

    def has(self, span: Span) -> bool:
        """Whether these bytes are there."""
        return any(start <= span[0] and span[1] <= end for start, end in self._spans)

    @property
    def footer(self) -> tuple[pq.FileMetaData, pa.Schema] | None:
        """What the footer says; None while it is not there."""
        return self._footer

    def read_footer(self) -> tuple[pq.FileMetaData, pa.Schema]:
        """What the footer says, once it is there. A `KumoDataError` if the file is not Parquet."""
        with self._changed:
            if self._footer is None:
                with open_parquet(self._path, name=self._name) as parquet:
                    self._footer = parquet.metadata, parquet.schema_arrow
            return self._footer

    def follow(self, transfer: Future[Any]) -> None:
        """Follow the transfer, too: waiting ends when it does."""
        self._transfer = transfer
        transfer.add_done_callback(lambda _: self._notify())

    def begins(self) -> bool:
        """Wait for the footer. False if the transfer ends before: the file does not arrive by pieces.

        Raises what the transfer failed with.
        """
        self._wait(lambda: self._footer is not None)
        return self._footer is not None

    @contextlib.contextmanager
    def open(self) -> Generator[pq.ParquetFile, None, None]:
        """The file, once it `begins`. Its `read_row_groups` waits for them.

        Raises (also in the `with` block, and at its end):
            Outdated: The file has begun to arrive again. What was read of it is void.
            KumoDataError: It is damaged.
            Exception: What the transfer failed with.
        """
        with self._changed:
            begun, (metadata, _) = self._begun, self.read_footer()

        def wait_for(groups: Sequence[int]) -> None:
            span = span_of(metadata, groups)
            self._wait(lambda: self._begun != begun or self.has(span))
            if self._begun != begun:
                raise Outdated

        try:
            with _Arriving(self._path, metadata, wait_for) as parquet:
                yield parquet
        except (pa.ArrowException, OSError) as error:
            self._end(begun)
            raise not_parquet(self._name, error) from None
        self._end(begun)

    def _end(self, begun: int) -> None:
        assert self._transfer is not None
        self._transfer.result()
        if self._begun != begun:
            raise Outdated

    def _wait(self, is_there: Callable[[], bool]) -> None:
        transfer = self._transfer
        assert transfer is not None
        with self._changed:
            self._changed.wait_for(lambda: is_there() or transfer.done())
        if transfer.done():
            transfer.result()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Arriving(pq.ParquetFile):
    """Parquet that is read before it is complete."""

    def __init__(
        self, path: Path, metadata: pq.FileMetaData, wait_for: Callable[[Sequence[int]], None]
    ) -> None:
        super().__init__(str(path), metadata=metadata, **IN_LITTLE_MEMORY)
        self._wait_for = wait_for

    def read_row_groups(self, row_groups: list[int], *args: Any, **options: Any) -> pa.Table:
        self._wait_for(row_groups)
        return super().read_row_groups(row_groups, *args, **options)


def span_of(metadata: pq.FileMetaData, groups: Sequence[int]) -> Span:
    """Where row groups lie in a file."""
    spans = [
        chunk_span(group.column(column))
        for group in map(metadata.row_group, groups)
        for column in range(group.num_columns)
    ]
    return min((start for start, _ in spans), default=0), max((end for _, end in spans), default=0)
