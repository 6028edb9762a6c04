"""The connections of a transfer: as many as the pipe takes.

A transfer begins with few. Their number doubles as long as that raises the total rate by a fifth; if two looks
show that it does not, the last ones stop again, and are tried again later. When a server asks to slow down (429,
503), half of them stop.

Files are served in their order: while the first one has pieces left, they go before those of the second.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from dagster_kumo.api.errors import KumoDataError

MOST_STREAMS = 16
FEWEST = 4
WINDOW = 0.2  # seconds over which a rate is measured
SETTLING = 0.1  # seconds in which a new connection gets going
WORTH_IT = 1.2  # the growth of the rate that more connections must bring
PATIENCE = 2  # windows in which more connections must bring it: one alone may have been a slow one
REST = 4  # windows before more connections are tried again

Span = tuple[int, int]
"""Where bytes of a file begin and end."""


class Watcher(Protocol):
    """Follows how a file arrives."""

    def begin(self, length: int) -> None:
        """The file begins to arrive. If it does so again, what has arrived before is void."""
        ...

    def arrived(self, span: Span) -> None:
        """These bytes are there. Called by several threads."""
        ...


class Streams:
    """Threads with a connection each, at most `most`, that work until `close`."""

    def __init__(self, most: int = MOST_STREAMS) -> None:
        self._most = most
        self.limit = min(FEWEST, most)
        """How many work at the same time now."""
        self._changed = threading.Condition()
        self._queue: list[tuple[int, int, Future[None], Callable[[], None]]] = []
        self._numbers = itertools.count()
        self._waiting: set[int] = set()
        self._threads: list[threading.Thread] = []
        self._running = 0
        self.is_stopped = False
        self._came, self._since = 0, 0.0
        self._before: tuple[int, float] | None = None
        """How many there were before the last ones were added, and their rate."""
        self._doubts = 0
        self._rest = 0

    def stop(self) -> None:
        """End all transfers at their next chunk."""
        with self._changed:
            self.is_stopped = True
            for *_, future, _ in self._queue:
                _cancel(future)
            self._queue.clear()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop, and wait until all threads have ended."""
        self.stop()
        for thread in self._threads:
            thread.join()

    def submit(self, order: int, work: Callable[[], None], *, begins: bool) -> Future[None]:
        """Queue a piece of work. If it `begins` a file, wait until a connection has nothing else to do."""
        future: Future[None] = Future()
        with self._changed:
            if begins:
                self._waiting.add(order)
                self._changed.wait_for(lambda: self.is_stopped or self._may_begin(order))
                self._waiting.discard(order)
            if self.is_stopped:
                _cancel(future)
                return future
            heapq.heappush(self._queue, (order, next(self._numbers), future, work))
            self._start_threads()
            self._changed.notify_all()
        return future

    def received(self, count: int) -> None:
        """Count bytes that arrived, of which the rate is made."""
        with self._changed:
            now = time.monotonic()
            if not self._since:
                self._since = now
            if now < self._since:
                return
            self._came += count
            if now - self._since >= WINDOW:
                rate = self._came / (now - self._since)
                self._came, self._since = 0, now
                self._adjust(rate)

    def slow_down(self) -> None:
        """Work over half as many connections, because a server asked for it."""
        with self._changed:
            if self._rest < REST or self._before:  # others were asked just now
                self.limit = max(1, self.limit // 2)
                self._before, self._rest = None, REST
                self._came, self._since = 0, 0.0

    def _may_begin(self, order: int) -> bool:
        is_idle = self._running + len(self._queue) < self.limit
        return is_idle and order == min(self._waiting)

    def _adjust(self, rate: float) -> None:
        if self._before is not None and rate < self._before[1] * WORTH_IT:
            self._doubts += 1
            if self._doubts == PATIENCE:
                self.limit, self._rest = self._before[0], REST
                self._before = None
        elif self._rest:
            self._rest -= 1
        elif self.limit < self._most and (self._queue or self._waiting):
            self._before, self._doubts = (self.limit, rate), 0
            self.limit = min(self._most, 2 * self.limit)
            self._since += SETTLING
            self._start_threads()
            self._changed.notify_all()
        else:
            self._before = None

    def _start_threads(self) -> None:
        needed = min(self.limit, self._running + len(self._queue))
        while len(self._threads) < needed:
            name = f"kumo-stream-{len(self._threads)}"
            self._threads.append(threading.Thread(target=self._work, name=name))
            self._threads[-1].start()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: self.is_stopped or (self._queue and self._running < self.limit)
                )
                if self.is_stopped:
                    return
                *_, future, work = heapq.heappop(self._queue)
                self._running += 1
            try:
                if future.set_running_or_notify_cancel():
                    _resolve(future, work)
            finally:
                with self._changed:
                    self._running -= 1
                    self._changed.notify_all()


class Lane:
    """The streams, as the file `name` sees them. The file with the lowest order comes first."""

    def __init__(self, streams: Streams, order: int, name: str) -> None:
        self._streams = streams
        self._order = order
        self._name = name
        self._has_begun = False
        self.watcher: Watcher | None = None
        """Follows how the file arrives, if it arrives whole and by pieces."""

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Queue a piece of the file. The first one waits until a connection has nothing else to do."""
        begins, self._has_begun = not self._has_begun, True
        return self._streams.submit(self._order, work, begins=begins)

    def run(self, work: Callable[[], None]) -> None:
        """Do something over one connection, and wait for it."""
        future = self.submit(work)
        if future.cancelled():
            self.check()
        future.result()

    def received(self, count: int) -> None:
        """Count bytes that arrived.

        Raises:
            KumoDataError: The transfer was stopped.
        """
        self.check()
        self._streams.received(count)

    def slow_down(self) -> None:
        """The server asks for fewer connections."""
        self._streams.slow_down()

    def check(self) -> None:
        """Raise a `KumoDataError` if the transfer was stopped."""
        if self._streams.is_stopped:
            raise KumoDataError(f"The transfer of {self._name} was stopped.")


def _cancel(future: Future[None]) -> None:
    future.cancel()
    future.set_running_or_notify_cancel()  # else whoever waits for it would wait forever


def _resolve(future: Future[None], work: Callable[[], None]) -> None:
    try:
        work()
    except BaseException as error:  # noqa: BLE001 - raised by whoever waits for the result
        future.set_exception(error)
    else:
        future.set_result(None)
