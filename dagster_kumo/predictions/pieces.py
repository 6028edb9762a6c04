"""Fetch one file by pieces, over all streams: the whole file, or its footer and the requested columns.

Each piece is written to its own offset in a local file, and everything else stays a hole. So the file can be
read like a complete one. Memory holds a chunk for each stream, and the disk only what was fetched.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError
from dagster_kumo.predictions.streams import Lane, Span, Watcher

FOOTER_GUESS_BYTES = 64 * 1024  # a prediction file's footer fits: one request is enough
MAX_FOOTER_BYTES = 64 * 1024**2
PIECE_BYTES = 8 * 1024**2  # of one request, so long that the wait for its first byte hardly matters
GAP_BYTES = 128 * 1024  # fetching such a gap costs less than another request
_MAGIC = b"PAR1"


class Changed(Exception):
    """The file has changed since its transfer began."""


Known = Callable[[int, Span], None]
"""Takes the length of a file, and which bytes of it come."""


class Source(Protocol):
    """One version of a file, read by several threads."""

    @property
    def name(self) -> str: ...

    def read(
        self, start: int, end: int | None, write: Callable[[int, bytes], None], known: Known
    ) -> None:
        """Read the bytes from `start` up to `end`. A negative `start` counts from the end of the file.

        `known` is called before the first byte is written. A server without ranges sends the whole file instead.

        Raises:
            Changed: It is another version.
        """
        ...


def fetch_by_pieces(source: Source, to: Path, lane: Lane, columns: Sequence[str] | None) -> None:
    """Write a file to the local path `to`; of one with `columns`, only its footer and their chunks.

    The lane's watcher follows a whole file.

    Raises:
        Changed: The file was replaced meanwhile.
        KumoDataError, KumoConnectionError: It is not Parquet, or cannot be fetched.
    """
    if columns is None:
        _fetch_whole(source, to, lane)
    else:
        _fetch_columns(source, to, columns, lane)


def _fetch_whole(source: Source, to: Path, lane: Lane) -> None:
    fetch = _Fetch(source, to, lane, lane.watcher)
    length, span = fetch.begin(0, PIECE_BYTES)
    # The footer comes early, because it says where the rows are.
    tail = max(span[1], length - FOOTER_GUESS_BYTES)
    fetch.finish([(tail, length), *_pieces((span[1], tail))] if span[1] < length else [])


def _fetch_columns(source: Source, to: Path, columns: Sequence[str], lane: Lane) -> None:
    fetch = _Fetch(source, to, lane, None)
    _, (start, _) = fetch.begin(-FOOTER_GUESS_BYTES, None)
    fetch.finish([])
    if start == 0:  # the whole file
        return
    footer = footer_start(to, source.name)
    if footer < start:
        fetch.finish([(footer, start)])
    spans = _spans_of(to, columns, source.name)
    _check_room(to, sum(end - begin for begin, end in spans), source.name)
    fetch.finish([piece for span in spans for piece in _pieces(span)])


class _Fetch:
    """The pieces of one file that are on their way."""

    def __init__(self, source: Source, to: Path, lane: Lane, watcher: Watcher | None) -> None:
        self._source = source
        self._to = to
        self._lane = lane
        self._watcher = watcher
        self._failed = threading.Event()
        self._pieces: list[Future[None]] = []
        to.write_bytes(b"")

    def begin(self, start: int, end: int | None) -> tuple[int, Span]:
        """Ask for the first piece. Returns the file's length, and which bytes come, before they are there."""
        found: Future[tuple[int, Span]] = Future()

        def known(length: int, span: Span) -> None:
            if not found.done():  # a broken transfer asks again
                is_whole = start == 0 or span[0] == 0
                _check_room(self._to, length if is_whole else 0, self._source.name)
                if self._watcher is not None:
                    self._watcher.begin(length)
                found.set_result((length, span))

        first = self._submit(start, end, known)
        waiting: list[Future[Any]] = [first, found]
        wait(waiting, return_when=FIRST_COMPLETED)
        if not found.done():
            self.finish([])
        return found.result()

    def finish(self, spans: Sequence[Span]) -> None:
        """Fetch these pieces, and wait for all.

        Raises the first error, once all other pieces have stopped.
        """
        for span in spans:
            self._submit(*span, _ignore)
        try:
            for piece in as_completed(self._pieces):
                if piece.cancelled():
                    self._lane.check()
                piece.result()
        except BaseException:
            self._failed.set()
            wait([piece for piece in self._pieces if not piece.cancel()])
            raise
        self._pieces.clear()

    def _submit(self, start: int, end: int | None, known: Known) -> Future[None]:
        piece = self._lane.submit(lambda: self._run(start, end, known))
        self._pieces.append(piece)
        return piece

    def _run(self, start: int, end: int | None, known: Known) -> None:
        spans: list[Span] = []

        def note(length: int, span: Span) -> None:
            known(length, span)
            spans.append(span)

        with self._to.open("r+b", buffering=0) as file:

            def write(offset: int, content: bytes) -> None:
                if self._failed.is_set():
                    raise KumoDataError(f"The transfer of {self._source.name} was stopped.")
                self._lane.received(len(content))
                _write_at(file, offset, content, self._source.name)

            self._source.read(start, end, write, note)
        if spans and self._watcher is not None:
            self._watcher.arrived(spans[-1])


def _ignore(length: int, span: Span) -> None: ...


def _write_at(file: BinaryIO, offset: int, content: bytes, name: str) -> None:
    """Write to an unbuffered file; the disk may take only a part at a time."""
    try:
        file.seek(offset)
    except OSError:
        raise KumoDataError(
            f"{name} would have more than {offset} bytes, which is too long for a disk. Is it damaged?"
        ) from None
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]


def _check_room(path: Path, needed: int, name: str) -> None:
    """Refuse a file before it is written, if its disk has no room for it."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise KumoDataError(
            f"{name} needs {needed} bytes more, and {path.parent} has room for {free}.\n"
            "Make room there; if it is a temporary folder, TMPDIR can name another one."
        )


def footer_start(path: Path, name: str) -> int:
    """Where the footer of a Parquet file begins, from its last bytes.

    Raises:
        KumoDataError: They are not those of a Parquet file.
    """
    with path.open("rb") as file:
        length = file.seek(0, 2)
        file.seek(max(0, length - 8))
        last = file.read(8)
    # The footer's length is in front of the magic bytes at the end.
    start = length - 8 - int.from_bytes(last[:4], "little")
    if last[4:] != _MAGIC or start < 0:
        raise KumoDataError(
            f"{name} is not a readable Parquet file: its last bytes are not those of one."
        )
    if length - start > MAX_FOOTER_BYTES:
        raise KumoDataError(
            f"{name} has a footer of {length - start} bytes, which no honest file needs. Is it damaged?"
        )
    return start


def chunk_span(chunk: pq.ColumnChunkMetaData) -> Span:
    """Where a column of a row group lies in the file."""
    offsets = [chunk.data_page_offset, chunk.dictionary_page_offset]
    start = min((offset for offset in offsets if offset), default=0)  # a damaged file may have none
    return start, start + chunk.total_compressed_size


def _spans_of(path: Path, columns: Sequence[str], name: str) -> list[Span]:
    """The ranges of the chunks of `columns`. Chunks that are close together become one range."""
    try:
        metadata = pq.read_metadata(str(path))
    except (pa.ArrowException, OSError) as error:
        raise KumoDataError(f"{name} is not a readable Parquet file: {error}") from None
    spans: list[Span] = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            # The values of lists and structs are separate columns, with names such as `name.list.element`.
            if any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in columns):
                spans.append(chunk_span(chunk))
    return joined(spans, gap=GAP_BYTES)


def joined(spans: Iterable[Span], gap: int = 0) -> list[Span]:
    """The spans in order. Those with at most `gap` bytes between them are one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start - found[-1][1] <= gap:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


def _pieces(span: Span) -> Iterator[Span]:
    for start in range(span[0], span[1], PIECE_BYTES):
        yield start, min(start + PIECE_BYTES, span[1])
