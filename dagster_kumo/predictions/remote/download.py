"""Fetch one file of a live output over HTTP. Broken and stalled transfers are resumed, and expired urls renewed."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from dagster_kumo.api.errors import KumoConnectionError, KumoDataError, without_query
from dagster_kumo.api.retry import Failure, should_retry
from dagster_kumo.api.transport import Transport
from dagster_kumo.predictions.pieces import Changed, Known, fetch_by_pieces
from dagster_kumo.predictions.remote.checksums import Checksum
from dagster_kumo.predictions.remote.output_urls import OutputUrls, file_name
from dagster_kumo.predictions.streams import Lane, Span

CHUNK_BYTES = 256 * 1024  # read at a time at most; a quarter of it would take a fifth more CPU time
PROGRESS_BYTES = 16 * 1024  # less than this does not count as progress
MAX_RENEWALS_WITHOUT_PROGRESS = 2  # if fresh urls are refused too, more will not help
MAX_RESTARTS = 2  # of a file that changed while it was read, or that arrived damaged
OVERLOADED = (429, 503)

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_LENGTH = re.compile(r"[0-9]{1,18}")

Write = Callable[[int, bytes], None]


class _NoRanges(Exception):
    """The server does not always serve ranges."""


class _Damaged(Exception):
    """The whole file arrived, with another checksum of this kind than the server stated."""


@dataclass(frozen=True)
class RemoteFile:
    """One file of a live output, by its position in the list of urls. It is a `PartitionFile`."""

    urls: OutputUrls
    index: int
    transport: Transport

    @property
    def name(self) -> str:
        """The file's name in Kumo, for messages."""
        return file_name(self.path)

    @property
    def path(self) -> str:
        return self.urls.get(self.index)

    def fetch_to(self, to: Path, lane: Lane, columns: Sequence[str] | None = None) -> Path:
        """A file that has changed, or that does not have the stated checksum, is fetched again from the start.

        If the server does not serve ranges, one connection fetches the whole file.
        """
        why = ""
        has_ranges = True
        for _ in range(1 + MAX_RESTARTS):
            version = _Version(self, lane, has_ranges)
            try:
                fetch_by_pieces(version, to, lane, columns)
                if columns is None:
                    version.verify(to)
                return to
            except _NoRanges:
                has_ranges = False
                why = "came with ranges and without. Do several servers answer for it?"
            except Changed:
                why = "changed each time while it was read. Is something still writing this output?"
            except _Damaged as damaged:
                why = (
                    f"had a wrong {damaged} checksum each time.\n"
                    "Does a proxy change the files, or is the file damaged in its storage?"
                )
        raise KumoDataError(f"{self.name}, fetched {1 + MAX_RESTARTS} times, {why}")


class _Version:
    """One version of a file. All its pieces have the same length and ETag."""

    def __init__(self, remote: RemoteFile, lane: Lane, has_ranges: bool) -> None:
        self.remote = remote
        self.name = remote.name
        self.lane = lane
        self.has_ranges = has_ranges
        self.etag: str | None = None
        self._length: int | None = None
        self._checksum = Checksum({})
        self._lock = threading.Lock()

    def read(self, start: int, end: int | None, write: Write, known: Known) -> None:
        """See `pieces.Source`."""
        if not self.has_ranges:
            start, end = 0, None
        _Piece(self, start, end, write, known).run()

    def note(self, response: requests.Response) -> tuple[int, Span]:
        """The file's length and the bytes that an answer has, if it is of this version."""
        place = _place(response)
        if place is None:
            raise KumoDataError(
                f"{self.name} came without its length, so a truncated transfer could not be "
                "detected. Does a proxy in between remove headers?"
            )
        span, length = place
        etag = response.headers.get("ETag")
        if etag and etag.startswith("W/"):
            etag = None  # two versions may have the same weak one
        with self._lock:
            if self.etag and etag and self.etag != etag:
                raise Changed
            if self._length is None:
                self._checksum = Checksum(response.headers, is_whole=span == (0, length))
            elif self._length != length:
                raise Changed
            self.etag, self._length = self.etag or etag, length
        return length, span

    def verify(self, path: Path) -> None:
        """Compare the file with the stated checksum."""
        if not self._checksum.matches(path):
            raise _Damaged(self._checksum.kind)


class _Piece:
    """A piece of a file, from its first byte to its last. A negative `start` counts from the end of the file.

    Requests are repeated as long as they make progress, with a fresh url if one expired.
    """

    def __init__(
        self, version: _Version, start: int, end: int | None, write: Write, known: Known
    ) -> None:
        self._version = version
        self._remote = version.remote
        self._url = self._remote.path
        self._renewals = 0
        self._retries = self._remote.transport.retries()
        self._start = start
        self._end = end
        self._write = write
        self._known = known
        self._offset = start
        self._forgiven_at = start  # a server without ranges sets the offset back, but not this

    def run(self) -> None:
        try:
            self._retries.run(self._receive_rest)
        except Failure as failure:
            if failure.response is None:
                raise self._remote.transport.no_answer("GET", self._url, failure) from None
            raise KumoConnectionError(
                f"{without_query(self._url)} answered {failure.response.status_code} "
                f"{failure.attempts} times in a row."
            ) from None

    def _receive_rest(self) -> None:
        while self._end is None or self._offset < self._end:
            with self._open() as response:
                self._receive(response, self._begin(response))

    @contextmanager
    def _open(self) -> Generator[requests.Response, None, None]:
        """The answer to a GET, with bytes of the file."""
        while True:
            with self._remote.transport.stream(self._url, self._headers()) as response:
                if response.status_code in (200, 206):
                    yield response
                    return
                if response.status_code == 416 and self._version.etag is None:
                    raise _NoRanges  # an empty file has no range
                if response.status_code in (412, 416):
                    raise Changed
                if response.status_code in OVERLOADED:
                    self._version.lane.slow_down()
                if should_retry(response.status_code):
                    raise Failure(response)
                self._renew_url(response)

    def _renew_url(self, response: requests.Response) -> None:
        """Handle a 4xx: the url has expired, or the file is not there."""
        if self._renewals >= MAX_RENEWALS_WITHOUT_PROGRESS:
            raise KumoDataError(
                f"{without_query(self._url)} answered {response.status_code}, also by a fresh url. "
                "The file may have been removed: Kumo keeps the outputs of a job for a limited time."
            )
        self._renewals += 1
        self._url = self._remote.urls.renewed(self._remote.index, self._url)

    def _headers(self) -> dict[str, str]:
        if self._offset < 0:
            headers = {"Range": f"bytes={self._offset}"}
        elif self._end is not None:
            headers = {"Range": f"bytes={self._offset}-{self._end - 1}"}
        else:
            headers = {"Range": f"bytes={self._offset}-"} if self._offset else {}
        if self._version.etag and headers:
            headers["If-Match"] = self._version.etag
        return headers

    def _begin(self, response: requests.Response) -> int:
        """Compare the answer with what was asked for. Returns where its bytes end."""
        length, (start, end) = self._version.note(response)
        if response.status_code == 200:
            if self._start > 0:
                raise _NoRanges
            self._start = self._offset = 0
            self._end = length
        elif self._offset < 0:
            self._start = self._offset = self._forgiven_at = max(0, length + self._offset)
            self._end = length
        else:
            self._end = length if self._end is None else min(self._end, length)
        if start != self._offset or end > self._end:
            raise Changed
        self._known(length, (self._start, self._end))
        return end

    def _receive(self, response: requests.Response, end: int) -> None:
        begin = self._offset
        # As it arrives, so that nothing is lost if the connection breaks.
        while chunk := response.raw.read1(CHUNK_BYTES, decode_content=False):
            if self._offset + len(chunk) > end:
                raise KumoDataError(
                    f"{self._remote.name} came with more than the {end} bytes that it should have."
                )
            self._write(self._offset, chunk)
            self._offset += len(chunk)
            if self._offset >= self._forgiven_at + PROGRESS_BYTES:
                self._forgiven_at = self._offset
                self._renewals = 0
                self._retries.progressed()
        if self._offset < end or begin == end != self._end:  # without an error of the connection
            raise requests.ConnectionError("the transfer ended early")


def _place(response: requests.Response) -> tuple[Span, int] | None:
    """The place of an answer's bytes in the file, and the file's length, if the answer states them."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return match and ((int(match[1]), int(match[2]) + 1), int(match[3]))
    match = _LENGTH.fullmatch(response.headers.get("Content-Length", ""))
    return match and ((0, int(match[0])), int(match[0]))
