"""Time-outs for connections that send almost nothing.

A socket's own timeout starts again with each byte. A server that sends one byte now and then would
never be too late.
"""

from __future__ import annotations

import functools
import http.client
import io
import time
from typing import Any

from requests.adapters import HTTPAdapter

SLOWEST = 1000  # bytes per second, on average over the timeout; a slower answer would never end
MAX_HEAD_BYTES = 8 * 1024**2  # http.client limits each line, but not how many 1xx heads arrive


class StallGuard(HTTPAdapter):
    """Opens connections that fail if an answer, headers included, is slower than `SLOWEST`."""

    def get_connection_with_tls_context(self, *args: Any, **options: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **options)
        pool.ConnectionCls = _guarded(pool.ConnectionCls)
        return pool


class _Answer(http.client.HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._bytes = _SteadyBytes(self.fp.detach(), sock.gettimeout())
        self.fp = io.BufferedReader(self._bytes)

    def begin(self) -> None:
        super().begin()
        self._bytes.in_head = False


class _SteadyBytes(io.RawIOBase):
    """The bytes of a socket. Only the time spent waiting for them counts, not the time in between."""

    def __init__(self, raw: io.RawIOBase, timeout: float) -> None:
        self._raw = raw
        self._timeout = timeout
        self._waited = 0.0
        self._came = 0
        self._whole = 0
        self.in_head = True

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._raw.fileno()

    def readinto(self, buffer: Any) -> int | None:
        began = time.monotonic()
        count: int | None = self._raw.readinto(buffer)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType] - its stub leaves it out
        if self._came:  # a server may be silent for the whole timeout before it begins to answer
            self._waited += time.monotonic() - began
        self._came += count or 0
        if self._waited > self._timeout:
            if self._came < SLOWEST * self._timeout:
                raise TimeoutError(f"timed out: {self._came} bytes in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0
        self._whole += count or 0
        if self.in_head and self._whole > MAX_HEAD_BYTES:
            raise OSError("the head of the answer does not end")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


@functools.cache
def _guarded(connection: Any) -> Any:
    """The class of connection that urllib3 chose, SOCKS included, with answers read by `_Answer`."""
    if connection.response_class is _Answer:
        return connection
    return type(connection.__name__, (connection,), {"response_class": _Answer})
