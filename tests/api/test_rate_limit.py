"""`max_requests_per_second`: the calls of a machine keep to a rate, whoever makes them."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import ValidationError

from dagster_kumo import KumoClient, KumoResource
from tests.api.scripted_server import Answer, ScriptedServer

KEY = "acme:s3cr3t-of-acme"
HARDLY_EVER = 0.001  # calls a second: the first one goes, the next one would after a quarter hour

MakeClient = Callable[..., KumoClient]


class Interrupt(BaseException):
    """What a signal raises, as Dagster does where a run is terminated."""


@pytest.fixture(autouse=True)
def _temp_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv(
        "RBAC_ENABLED", "false"
    )  # nobody has to ask the server whether there are groups


@pytest.fixture
def limited(server: ScriptedServer, tmp_path: Path) -> MakeClient:
    """Makes clients of the server that keep to a rate, and know already what the server speaks."""
    server.answer(Answer(b"[]"))

    def limited(rate: float, url: str | None = None) -> KumoClient:
        client = KumoClient(url or server.url, KEY, max_requests_per_second=rate)
        assert client.generation.version == "2.x"
        for count in tmp_path.glob("dagster-kumo*/*.last"):
            count.unlink()
        return client

    return limited


@contextmanager
def interrupted_soon() -> Iterator[None]:
    """A signal comes to the main thread in a moment, and raises `Interrupt` there."""

    def interrupt(*_: object) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def in_background(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_calls_go_at_even_distances(server, limited):
    client = limited(20)
    for _ in range(11):
        client.check()
    assert len(server.calls) == 11
    assert (
        server.calls[-1].at - server.calls[0].at >= 0.4
    )  # ten distances of 0.05 s, and some noise


def test_without_a_rate_nothing_waits_and_nothing_is_written(server, tmp_path):
    server.answer(Answer(b"[]"))
    client = KumoClient(server.url, KEY)
    for _ in range(3):
        client.check()
    assert not list(tmp_path.glob("dagster-kumo*"))


def test_two_clients_of_a_deployment_share_the_rate(server, limited):
    first, second = limited(HARDLY_EVER), limited(HARDLY_EVER)
    first.check()
    thread = in_background(second.check)
    thread.join(0.2)
    assert thread.is_alive()
    assert len(server.calls) == 1


def test_deployments_do_not_share_it(limited, elsewhere):
    elsewhere.answer(Answer(b"[]"))
    limited(HARDLY_EVER).check()
    limited(HARDLY_EVER, elsewhere.url).check()
    assert len(elsewhere.calls) == 1


def test_repeated_requests_count(server, limited):
    server.answer(Answer(status=503), Answer(b"[]"))
    limited(2).check()
    assert len(server.calls) == 2
    assert (
        server.calls[1].at - server.calls[0].at >= 0.25
    )  # the first repetition would come at once


def test_files_do_not_count(server, limited):
    client = limited(HARDLY_EVER)
    client.check()
    for _ in range(3):
        with client.files.stream(f"{server.origin}/files/part-0", {}) as response:
            assert response.status_code == 200
    assert len(server.calls) == 4


def test_a_wait_for_the_turn_can_be_interrupted(limited):
    client = limited(HARDLY_EVER)
    client.check()
    with pytest.raises(Interrupt), interrupted_soon():
        client.check()


def test_a_wait_behind_another_thread_can_be_interrupted(limited):
    client = limited(HARDLY_EVER)
    client.check()
    in_background(client.check).join(0.05)
    with pytest.raises(Interrupt), interrupted_soon():
        client.check()


def test_a_caller_whose_time_is_over_does_not_wait_for_its_turn(server, limited):
    def until_one_has_gone() -> None:
        if server.calls:
            raise TimeoutError

    client = limited(4).with_limits(timeout=5.0, before_request=until_one_has_gone)
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(client.list_prediction_jobs) for _ in range(8)]

    # The second may have been next already when the first one went.
    assert sum(call.exception() is None for call in calls) <= 2
    assert len(server.calls) <= 2


def test_a_process_that_is_killed_while_it_has_the_turn_stops_nobody(server, limited, tmp_path):
    client = limited(1000)
    client.check()
    (lock,) = tmp_path.glob("dagster-kumo*/*.lock")
    hold = "import fcntl, sys, time; f = open(sys.argv[1]); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE)
    with holder:
        holder.stdout.readline()
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        thread = in_background(client.check)
        thread.join(0.1)
        assert thread.is_alive()
        holder.kill()
    thread.join(60)
    assert len(server.calls) == 2


@pytest.mark.parametrize("content", ["", "9" * 400, "nan", "99999999999"])
def test_a_count_that_makes_no_sense_is_begun_anew(server, limited, tmp_path, content):
    client = limited(1)
    client.check()
    (count,) = tmp_path.glob("dagster-kumo*/*.last")
    count.write_text(content)
    client.check()
    assert len(server.calls) == 2


def test_the_folder_is_the_users_own_and_tells_nothing(server, limited, tmp_path):
    limited(1000).check()
    (folder,) = tmp_path.glob("dagster-kumo*")
    assert folder.stat().st_mode & 0o777 == 0o700
    written = " ".join(f"{path.name} {path.read_text()}" for path in folder.iterdir())
    assert "s3cr3t" not in written
    assert server.origin.removeprefix("http://") not in written


@pytest.mark.parametrize("rate", [0, -1, float("inf"), float("nan")])
def test_a_rate_that_is_none_is_refused(limited, rate):
    with pytest.raises(ValueError, match="max_requests_per_second must be above 0"):
        limited(rate)


def test_the_resource_takes_the_rate(server, tmp_path):
    server.answer(Answer(b"[]"))
    resource = KumoResource(url=server.url, api_key=KEY, max_requests_per_second=1000)
    resource.get_client().check()
    assert list(tmp_path.glob("dagster-kumo*/*.last"))
    with pytest.raises(ValidationError, match="greater than 0"):
        KumoResource(max_requests_per_second=0)
