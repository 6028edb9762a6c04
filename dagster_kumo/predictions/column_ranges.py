"""Fetch parts of a Parquet file: its footer and the columns that are wanted, over several connections.

The parts are written to their own places in a scratch file; what is not wanted stays a hole there. So
the file is read as if all of it had come, memory holds one piece a connection, and disk what came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from dagster_kumo.api.errors import KumoDataError

FOOTER_GUESS_BYTES = 64 * 1024  # the footer of a prediction file fits, so that one request gets it
PIECE_BYTES = 8 * 1024**2  # of one request: at 40 MB/s the wait for its first byte weighs little
GAP_BYTES = 128 * 1024  # to read over so much costs less than another request
_MAGIC = b"PAR1"

Span = tuple[int, int]


@dataclass(frozen=True)
class Tail:
    """The end of a file, and the file's length."""

    content: bytes
    length: int


class Source(Protocol):
    """What can be read by ranges. Called from several threads."""

    @property
    def name(self) -> str: ...

    def read_tail(self) -> Tail: ...

    def read(self, start: int, end: int) -> bytes: ...


def fetch_columns(
    source: Source,
    to: Path,
    columns: Sequence[str],
    *,
    streams: int,
    stopped: Callable[[], bool],
) -> None:
    """Write the footer and the chunks of `columns` to their places in the file `to`.

    Raises:
        KumoDataError: the file is not Parquet, gives no ranges, or changed on the way.
    """
    footer, start = _footer(source)
    _write(to, start, footer, whole=True)
    spans = _spans(to, columns, source.name)

    def bring(span: Span) -> None:
        if stopped():
            raise KumoDataError(f"The transfer of {source.name} was stopped.")
        content = source.read(*span)
        if len(content) != span[1] - span[0]:
            raise KumoDataError(f"{source.name} is shorter than it was. Open the result again.")
        _write(to, span[0], content)

    pieces = [piece for span in spans for piece in _pieces(span)]
    if streams == 1 or len(pieces) < 2:
        for piece in pieces:
            bring(piece)
        return
    with ThreadPoolExecutor(streams, thread_name_prefix="kumo-parts") as pool:
        try:
            for _ in pool.map(bring, pieces):
                pass
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _footer(source: Source) -> tuple[bytes, int]:
    """The end of the file, at least the footer, and where that begins."""
    tail = source.read_tail()
    begin = tail.length - len(tail.content)
    # The footer's length stands before the magic at the very end.
    footer = tail.length - 8 - int.from_bytes(tail.content[-8:-4], "little")
    if tail.content[-4:] != _MAGIC or footer < 0:
        raise KumoDataError(
            f"{source.name} is not a readable Parquet file: it does not end as one."
        )
    if footer >= begin:
        return tail.content, begin
    return source.read(footer, begin) + tail.content, footer


def _write(to: Path, start: int, content: bytes, *, whole: bool = False) -> None:
    """Write a part to its place, in a new file when `whole`: what lies before it stays a hole."""
    try:
        with to.open("wb" if whole else "r+b") as file:
            file.seek(start)
            file.write(content)
    except OSError as error:
        raise KumoDataError(
            f"A part of a file could not be written to {to.parent}: {error.strerror}. Is there room?"
        ) from None


def _spans(path: Path, columns: Sequence[str], name: str) -> list[Span]:
    """Where the chunks of `columns` lie, those close together as one."""
    try:
        metadata = pq.read_metadata(str(path))
    except (pa.ArrowException, OSError) as error:
        raise KumoDataError(f"{name} is not a readable Parquet file: {error}") from None
    spans: list[Span] = []
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for chunk in map(group.column, range(group.num_columns)):
            # A list's or a struct's values are columns of their own, called `name.list.element` or so.
            if any(f"{chunk.path_in_schema}.".startswith(f"{column}.") for column in columns):
                offsets = [chunk.data_page_offset, chunk.dictionary_page_offset]
                start = min(offset for offset in offsets if offset)
                spans.append((start, start + chunk.total_compressed_size))
    return _joined(sorted(spans))


def _joined(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for start, end in spans:
        if joined and start - joined[-1][1] <= GAP_BYTES:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _pieces(span: Span) -> Iterator[Span]:
    for start in range(span[0], span[1], PIECE_BYTES):
        yield start, min(start + PIECE_BYTES, span[1])
