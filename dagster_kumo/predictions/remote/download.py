"""Fetch one file of a live output. Broken transfers are resumed, and expired urls renewed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import requests

from dagster_kumo.api.errors import KumoConnectionError, KumoDataError, without_query
from dagster_kumo.api.retry import Failure, should_retry
from dagster_kumo.api.transport import Transport
from dagster_kumo.predictions.column_ranges import FOOTER_GUESS_BYTES, Tail, fetch_columns
from dagster_kumo.predictions.files import never
from dagster_kumo.predictions.remote.checksums import Checksum
from dagster_kumo.predictions.remote.output_urls import OutputUrls, file_name

CHUNK_BYTES = 256 * 1024  # read at a time at most; a quarter of it would take a fifth more CPU time
PROGRESS_BYTES = 16 * 1024  # less than this does not count as progress
MAX_RANGE_BYTES = 64 * 1024**2  # of a file that is read by ranges; each range is held in memory
MAX_RENEWALS_WITHOUT_PROGRESS = 2  # if fresh urls are refused too, more will not help
MAX_RESTARTS = 2  # of a file that changed while it was read, or that arrived damaged

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18}|\*)")
_LENGTH = re.compile(r"[0-9]{1,18}")

T = TypeVar("T")


class _Changed(Exception):
    """The file has changed since the transfer began."""


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

    def fetch_to(
        self,
        to: Path,
        columns: Sequence[str] | None = None,
        *,
        streams: int = 1,
        stopped: Callable[[], bool] = never,
    ) -> Path:
        if columns is None:
            self.save(to, stopped=stopped)
        else:
            fetch_columns(_Ranges(self), to, columns, streams=streams, stopped=stopped)
        return to

    def save(self, to: Path, *, streams: int = 1, stopped: Callable[[], bool] = never) -> None:  # noqa: ARG002 - one connection for each file
        """Fetch the file to a local path with bounded memory.

        A broken or stalled transfer is resumed, and an expired url is renewed. A file that has changed, or
        that does not have the stated checksum, is fetched again from the start. `stopped` is called after
        each chunk, and ends the transfer.

        Raises:
            KumoConnectionError: The transfer broke again and again without progress.
            KumoDataError: The file cannot be fetched, its length or checksum is another one than stated,
                or the disk is full.
        """
        why = ""
        for _ in range(1 + MAX_RESTARTS):
            with to.open("wb") as file:
                try:
                    return _Transfer(self, file, stopped).run()
                except _Changed:
                    why = "changed each time while it was read. Is something still writing this output?"
                except _Damaged as damaged:
                    why = (
                        f"came each time with another {damaged} checksum than the server named.\n"
                        "Does a proxy change what it passes on, or is the file damaged in its storage?"
                    )
        raise KumoDataError(f"{self.name}, fetched {1 + MAX_RESTARTS} times, {why}")

    def read_range(self, start: int | None, length: int, *, etag: str | None = None) -> FileRange:
        """`length` bytes from `start`, or the last `length` bytes if `start` is None.

        Raises:
            KumoDataError: The server does not serve ranges, or the file's ETag is not `etag`.
        """
        return _RangeRequest(self, start, length, etag).run()


class _Ranges:
    """Reads a remote file by ranges, all of the same version of the file.

    Presigned urls are valid for GET only, so the length comes from the first range and not from HEAD.
    """

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._length: int | None = None
        self._etag: str | None = None
        self.name = remote.name

    def read_tail(self) -> Tail:
        last = self._remote.read_range(None, FOOTER_GUESS_BYTES)
        self._length, self._etag = last.file_length, last.etag
        return Tail(last.content, last.file_length)

    def read(self, start: int, end: int) -> bytes:
        found = self._remote.read_range(start, end - start, etag=self._etag)
        if found.file_length != self._length:
            raise KumoDataError(f"{self.name} changed while it was read. Open the result again.")
        return found.content


@dataclass(frozen=True)
class FileRange:
    """Some bytes of a file, and the length and ETag of the whole."""

    content: bytes
    file_length: int
    etag: str | None


class _Requests:
    """The requests for one file. They are repeated as long as they make progress, with a fresh url if one expired."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._url = remote.path
        self._renewals = 0
        self._retries = remote.transport.retries()

    def repeat(self, attempt: Callable[[], T]) -> T:
        """Call `attempt` until it succeeds, and return its result."""
        try:
            return self._retries.run(attempt)
        except Failure as failure:
            if failure.response is None:
                raise self._remote.transport.no_answer("GET", self._url, failure) from None
            raise KumoConnectionError(
                f"{without_query(self._url)} answered {failure.response.status_code} "
                f"{failure.attempts} times in a row."
            ) from None

    def progressed(self) -> None:
        """Bytes arrived: reset the count of failures."""
        self._renewals = 0
        self._retries.progressed()

    @contextmanager
    def open(self, headers: Mapping[str, str]) -> Generator[requests.Response, None, None]:
        """The answer to a GET, with the requested bytes.

        Raises:
            Failure: The status may be another one next time.
            _Changed: The file is another one than `headers` require.
            KumoDataError: The file is not there, also with a fresh url.
        """
        while True:
            with self._remote.transport.stream(self._url, headers) as response:
                if response.status_code in (200, 206):
                    yield response
                    return
                if response.status_code in (412, 416):
                    raise _Changed
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


class _Transfer(_Requests):
    """A whole file, from its first byte to its last."""

    def __init__(self, remote: RemoteFile, file: BinaryIO, stopped: Callable[[], bool]) -> None:
        super().__init__(remote)
        self._file = file
        self._stopped = stopped
        self._offset = 0
        self._forgiven_at = 0  # a server without ranges sets the offset back, but not this
        self._etag: str | None = None
        self._length: int | None = None
        self._checksum = Checksum({})

    def run(self) -> None:
        self.repeat(self._receive_rest)
        if not self._checksum.matches:
            raise _Damaged(self._checksum.kind)

    def _receive_rest(self) -> None:
        while self._length is None or self._offset < self._length:
            with self.open(self._headers()) as response:
                self._note(response)
                self._receive(response)

    def _headers(self) -> dict[str, str]:
        if not self._offset:
            return {}
        headers = {"Range": f"bytes={self._offset}-"}
        if self._etag:
            headers["If-Match"] = self._etag
        return headers

    def _note(self, response: requests.Response) -> None:
        """Compare the answer with what is known about the file."""
        if _is_another(self._etag, response):
            raise _Changed
        if response.status_code == 200 and self._offset:  # the server ignored the range
            self._file.seek(0)
            self._file.truncate()
            self._offset = 0
        start, length = _place(response)
        if start != self._offset or (self._length or length) != length:
            raise _Changed
        if length is None:
            raise KumoDataError(
                f"{self._remote.name} came without its length, so that a cut transfer could not be told "
                "from a whole one. Is there a proxy in between that changes what it passes on?"
            )
        if response.status_code == 200:
            self._checksum = Checksum(response.headers)
        self._etag = _strong_etag(response) or self._etag
        self._length = length
        self._check_room(length - self._offset)

    def _check_room(self, needed: int) -> None:
        folder = Path(self._file.name).parent
        free = shutil.disk_usage(folder).free
        if needed > free:
            raise KumoDataError(
                f"{self._remote.name} needs {needed} bytes more, and {folder} has room for {free}.\n"
                "Make room there; where it is a temporary folder, TMPDIR can name another one."
            )

    def _receive(self, response: requests.Response) -> None:
        assert self._length is not None
        for chunk in _pieces(response):
            if self._offset + len(chunk) > self._length:
                raise KumoDataError(
                    f"{self._remote.name} is longer than the {self._length} bytes that it should have."
                )
            self._file.write(chunk)
            self._checksum.update(chunk)
            self._offset += len(chunk)
            if self._offset >= self._forgiven_at + PROGRESS_BYTES:
                self._forgiven_at = self._offset
                self.progressed()
            if self._stopped():
                raise KumoDataError(f"The transfer of {self._remote.name} was stopped.")
        if self._offset < self._length:  # ended early, without an error of the connection
            raise requests.ConnectionError("the transfer ended early")


class _RangeRequest(_Requests):
    """A piece of a file."""

    def __init__(
        self, remote: RemoteFile, start: int | None, length: int, etag: str | None
    ) -> None:
        super().__init__(remote)
        self._start = start
        self._wanted = length
        self._etag = etag

    def run(self) -> FileRange:
        if self._wanted > MAX_RANGE_BYTES:
            raise KumoDataError(
                f"{self._remote.name} would be read in a part of {self._wanted} bytes, which the footer of "
                "no honest file needs. Is it damaged?"
            )
        try:
            return self.repeat(self._ask)
        except _Changed:
            raise KumoDataError(
                f"{self._remote.name} changed while it was read, or is empty. Open the result again."
            ) from None

    def _ask(self) -> FileRange:
        with self.open(self._headers()) as response:
            return self._range(response)

    def _headers(self) -> dict[str, str]:
        if self._start is None:
            headers = {"Range": f"bytes=-{self._wanted}"}
        else:
            headers = {"Range": f"bytes={self._start}-{self._start + self._wanted - 1}"}
        if self._etag:
            headers["If-Match"] = self._etag
        return headers

    def _range(self, response: requests.Response) -> FileRange:
        start, length = _place(response)
        if response.status_code != 206 or length is None:
            raise KumoDataError(
                f"{without_query(self._url)} cannot be read in parts (it answered a request "
                f"for a range with {response.status_code})."
            )
        expected = max(0, length - self._wanted) if self._start is None else self._start
        if _is_another(self._etag, response) or start != expected:
            raise _Changed
        content = bytearray()
        for chunk in _pieces(response):
            content += chunk
            if len(content) > self._wanted:
                raise KumoDataError(
                    f"{self._remote.name} came with more bytes than were asked for."
                )
        return FileRange(bytes(content), length, _strong_etag(response))


def _pieces(response: requests.Response) -> Iterator[bytes]:
    """Store the body as it arrives, so that nothing is lost if the connection breaks."""
    while piece := response.raw.read1(CHUNK_BYTES, decode_content=False):
        yield piece


def _place(response: requests.Response) -> tuple[int | None, int | None]:
    """The offset of an answer's bytes in the file, and the file's length, if the answer states them."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if match is None:
            return None, None
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if _LENGTH.fullmatch(length) else None


def _strong_etag(response: requests.Response) -> str | None:
    """The ETag, if it is a strong one."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else None


def _is_another(etag: str | None, response: requests.Response) -> bool:
    """Whether an answer is of another version of the file than the one with `etag`."""
    now = _strong_etag(response)
    return etag is not None and now is not None and etag != now
