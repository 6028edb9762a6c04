"""Fetch parts of a Parquet file: its footer and the requested columns, over several connections.

Each part is written to its own offset in a scratch file, and everything else stays a hole. So the file can be
read like a complete one. Memory holds one piece for each connection, and the disk only the fetched parts.
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

FOOTER_GUESS_BYTES = 64 * 1024  # a prediction file's footer fits: one request is enough
PIECE_BYTES = 8 * 1024**2  # of one request, so long that the wait for its first byte hardly matters
GAP_BYTES = 128 * 1024  # fetching such a gap costs less than another request
_MAGIC = b"PAR1"

Span = tuple[int, int]


@dataclass(frozen=True)
class Tail:
    """The end of a file, and the file's length."""

    content: bytes
    length: int


class Source(Protocol):
    """Something that can be read by ranges, from several threads."""

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
        KumoDataError: The file is not Parquet, does not support ranges, or has changed.
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
    """The end of the file with the footer, and the offset where the footer begins."""
    tail = source.read_tail()
    begin = tail.length - len(tail.content)
    # The footer's length is in front of the magic bytes at the end.
    footer = tail.length - 8 - int.from_bytes(tail.content[-8:-4], "little")
    if tail.content[-4:] != _MAGIC or footer < 0:
        raise KumoDataError(
            f"{source.name} is not a readable Parquet file: its last bytes are not those of one."
        )
    if footer >= begin:
        return tail.content, begin
    return source.read(footer, begin) + tail.content, footer


def _write(to: Path, start: int, content: bytes, *, whole: bool = False) -> None:
    """Write a part at its offset, in a new file if `whole`. The bytes before it stay a hole."""
    try:
        with to.open("wb" if whole else "r+b") as file:
            file.seek(start)
            file.write(content)
    except OSError as error:
        raise KumoDataError(
            f"A part of a file could not be written to {to.parent}: {error.strerror}. Is there room?"
        ) from None


def _spans(path: Path, columns: Sequence[str], name: str) -> list[Span]:
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
