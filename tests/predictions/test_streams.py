"""How many connections a transfer uses: as many as the pipe takes."""

from __future__ import annotations

import threading
import time

import pytest

from dagster_kumo import KumoDataError
from dagster_kumo.predictions.streams import FEWEST, SETTLING, WINDOW, Lane, Streams

pytestmark = pytest.mark.fast

CHUNK = 100_000


@pytest.fixture
def streams():
    made = Streams(16)
    yield made
    made.close()


class Pipe:
    """Where each connection gets a chunk in 10 ms."""

    def __init__(self, lane) -> None:
        self.lane = lane
        self.most = self._now = 0
        self._lock = threading.Lock()

    def read(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        for _ in range(10):
            time.sleep(0.01)
            self.lane.received(CHUNK)
        with self._lock:
            self._now -= 1


def test_connections_are_added_as_long_as_that_is_faster(streams):
    pipe = Pipe(Lane(streams, 0, "part-0"))
    for piece in [pipe.lane.submit(pipe.read) for _ in range(80)]:
        piece.result()
    assert FEWEST < pipe.most <= 16


@pytest.mark.parametrize(("then", "limit"), [(1_000_000, 4 * FEWEST), (1, FEWEST)])
def test_connections_that_were_added_stop_after_two_slow_looks(streams, then, limit):
    lane, go = Lane(streams, 0, "part-0"), threading.Event()
    pieces = [lane.submit(lambda: go.wait(30)) for _ in range(40)]
    lane.received(0)
    for count, expected in [(1_000, 2 * FEWEST), (1, 2 * FEWEST), (then, limit)]:
        time.sleep(WINDOW + SETTLING)  # the next look is no earlier
        lane.received(count)
        assert streams.limit == expected
    go.set()
    for piece in pieces:
        piece.result()


def test_a_server_that_is_too_busy_gets_half_of_them_once(streams):
    lane = Lane(streams, 0, "part-0")
    lane.slow_down()
    lane.slow_down()  # another connection, at the same moment
    assert streams.limit == FEWEST // 2


def test_the_pieces_of_the_first_file_come_first(streams):
    order: list[str] = []
    busy, go = threading.Barrier(FEWEST + 1), threading.Event()
    first, second = Lane(streams, 0, "part-0"), Lane(streams, 1, "part-0")
    started = [lane.submit(lambda: busy.wait(30) and go.wait(30)) for lane in (first, second)]
    started += [first.submit(lambda: busy.wait(30) and go.wait(30)) for _ in range(FEWEST - 2)]
    busy.wait(30)
    waiting = [second.submit(lambda: order.append("second")) for _ in range(3)]
    waiting += [first.submit(lambda: order.append("first")) for _ in range(3)]
    streams.limit = 1
    go.set()
    for piece in started + waiting:
        piece.result()
    assert order == ["first"] * 3 + ["second"] * 3


def test_what_waits_ends_when_all_is_stopped(streams):
    lane = Lane(streams, 0, "part-0")
    begun, go = threading.Event(), threading.Event()

    def work():
        begun.set()
        go.wait(30)
        lane.received(1)

    running = lane.submit(work)
    begun.wait(30)
    queued = [lane.submit(work) for _ in range(20)]
    streams.stop()
    go.set()
    with pytest.raises(KumoDataError, match="part-0 was stopped"):
        running.result()
    assert queued[-1].cancelled()
    with pytest.raises(KumoDataError, match="part-0 was stopped"):
        lane.run(work)
