"""Fetch one file of a live output: resume what was cut, ask anew for a url that expired."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import requests
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError

from dagster_kumo.api.errors import KumoConnectionError, KumoDataError, without_query
from dagster_kumo.api.transport import BROKEN, Transport, should_retry
from dagster_kumo.predictions.addresses import Addresses, file_name

CHUNK_BYTES = 1024**2
MAX_RENEWALS_WITHOUT_PROGRESS = 2  # a fresh url that is refused too will not get better
MAX_RESTARTS = 2  # of a file that changed while it was read

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class _Changed(Exception):
    """The object is not the one that the transfer began with."""


@dataclass
class RemoteFile:
    """One file of a live output, by its place in the list of urls."""

    addresses: Addresses
    index: int
    transport: Transport

    @property
    def name(self) -> str:
        """The file's name in the service, for messages."""
        return file_name(self.addresses.get(self.index))

    def download(self, to: Path, *, stopped: Callable[[], bool] = lambda: False) -> int:
        """Fetch the file to a local path with bounded memory: its length in bytes.

        A cut transfer goes on where it broke; an expired url is asked for again; an object that
        changed on the way is fetched from its beginning. `stopped` is asked after each piece and
        ends the transfer.

        Raises:
            KumoConnectionError: the transfer broke again and again without getting further.
            KumoDataError: the server does not give the file, or gives another length than it said.
        """
        for _ in range(1 + MAX_RESTARTS):
            with to.open("wb") as file:
                try:
                    return _Transfer(self, file, stopped).run()
                except _Changed:
                    continue
        raise KumoDataError(
            f"{self.name} changed each time while it was read, {1 + MAX_RESTARTS} times. "
            "Is something still writing this output?"
        )

    def read_range(self, start: int | None, length: int) -> tuple[bytes, int]:
        """`length` bytes from `start`, or the last `length` bytes when `start` is None.

        Returns:
            the bytes, and the length of the whole file.
        """
        header = f"bytes=-{length}" if start is None else f"bytes={start}-{start + length - 1}"
        return _RangeRequest(self, header).run()


class _Requests:
    """Repeats a GET of one file until it got further or there is no sense in going on."""

    def __init__(self, remote: RemoteFile) -> None:
        self._remote = remote
        self._url = remote.addresses.get(remote.index)
        self._renewals = 0
        self._retry = remote.transport.retries()

    def progressed(self) -> None:
        """Bytes came: whatever went wrong before is forgiven."""
        self._renewals = 0
        self._retry = self._remote.transport.retries()

    def broke(self, cause: Exception | None, response: requests.Response | None = None) -> None:
        """Wait before the next attempt, or raise when there were too many."""
        raw = response.raw if response is not None else None
        attempts = len(self._retry.history) + 1
        try:
            self._retry: Retry = self._retry.increment("GET", "/", response=raw, error=cause)
        except MaxRetryError:
            if response is not None:
                raise KumoConnectionError(
                    f"{without_query(self._url)} answered {response.status_code} {attempts} times in a row."
                ) from None
            raise self._remote.transport.no_answer(
                "GET", self._url, cause, attempts=attempts
            ) from None
        self._retry.sleep(raw)

    def refused(self, response: requests.Response) -> None:
        """A 4xx: the url has expired, or the file is not there."""
        if self._renewals >= MAX_RENEWALS_WITHOUT_PROGRESS:
            raise KumoDataError(
                f"{without_query(self._url)} answered {response.status_code}, also by a fresh url. "
                "The file may have been removed: Kumo keeps the outputs of a job for a limited time."
            )
        self._renewals += 1
        self._url = self._remote.addresses.renewed(self._remote.index, self._url)

    def acceptable(self, response: requests.Response) -> bool:
        """Whether the answer has the bytes; if not, what follows from it has been done."""
        if response.status_code in (200, 206):
            return True
        if response.status_code in (412, 416):
            raise _Changed
        if should_retry(response.status_code):
            self.broke(None, response)
        else:
            self.refused(response)
        return False


class _Transfer(_Requests):
    """A whole file, from its first byte to its last."""

    def __init__(self, remote: RemoteFile, file: BinaryIO, stopped: Callable[[], bool]) -> None:
        super().__init__(remote)
        self._file = file
        self._stopped = stopped
        self._offset = 0
        self._etag: str | None = None
        self._length: int | None = None

    def run(self) -> int:
        while self._length is None or self._offset < self._length:
            try:
                with self._remote.transport.stream(self._url, self._headers()) as response:
                    if self.acceptable(response):
                        self._note(response)
                        self._receive(response)
            except BROKEN as error:
                self.broke(error)
        return self._offset

    def _headers(self) -> dict[str, str]:
        if not self._offset:
            return {}
        headers = {"Range": f"bytes={self._offset}-"}
        if self._etag:
            headers["If-Match"] = self._etag
        return headers

    def _note(self, response: requests.Response) -> None:
        """Hold the answer against what is known of the file."""
        etag = response.headers.get("ETag")
        if self._etag and etag and etag != self._etag:
            raise _Changed
        if response.status_code == 200 and self._offset:  # the server ignored the range
            self._file.seek(0)
            self._file.truncate()
            self._offset = 0
        length = _whole_length(response)
        if self._length is not None and length is not None and length != self._length:
            raise _Changed
        if length is None and self._length is None:
            raise KumoDataError(
                f"{self._remote.name} came without its length, so that a cut transfer could not be told "
                "from a whole one. Is there a proxy in between that changes what it passes on?"
            )
        self._etag = etag if etag and not etag.startswith("W/") else self._etag
        self._length = length if length is not None else self._length

    def _receive(self, response: requests.Response) -> None:
        for chunk in response.iter_content(CHUNK_BYTES):
            self._file.write(chunk)
            self._offset += len(chunk)
            self.progressed()
            if self._stopped():
                raise KumoDataError(f"The transfer of {self._remote.name} was stopped.")
        assert self._length is not None
        if self._offset > self._length:
            raise KumoDataError(
                f"{self._remote.name} is longer than the {self._length} bytes that it should have."
            )
        if self._offset < self._length:  # ended early, though the connection did not complain
            self.broke(requests.ConnectionError("the transfer ended early"))


class _RangeRequest(_Requests):
    """A piece of a file."""

    def __init__(self, remote: RemoteFile, header: str) -> None:
        super().__init__(remote)
        self._header = header

    def run(self) -> tuple[bytes, int]:
        while True:
            try:
                headers = {"Range": self._header}
                with self._remote.transport.stream(self._url, headers) as response:
                    if self.acceptable(response):
                        content = response.content
                        length = _whole_length(response)
                        if response.status_code == 206 and length is not None:
                            return content, length
                        raise KumoDataError(
                            f"{without_query(self._url)} cannot be read in parts (it answered a request "
                            f"for a range with {response.status_code})."
                        )
            except BROKEN as error:
                self.broke(error)
            except _Changed:
                raise KumoDataError(
                    f"{self._remote.name} changed while it was read. Open the result again."
                ) from None


def _whole_length(response: requests.Response) -> int | None:
    """The length of the whole file, as an answer to a plain or a range request tells it."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return int(match[3]) if match and match[3] != "*" else None
    length = response.headers.get("Content-Length")
    return int(length) if length and length.isdigit() else None
