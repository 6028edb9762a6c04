"""What is repeated, how often, and what is never sent twice."""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate

import pytest

from dagster_kumo import KumoAPIError, KumoClient, KumoConnectionError
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.api.retry import RetryPolicy
from tests.api.scripted_server import Answer

KEY = "acme:s3cr3t"
LAUNCH = "launch-1"
CREATED = Answer(b'["bp-1", {}]')


@pytest.fixture
def scripted(server) -> KumoClient:
    """A client of the server that answers as told, which repeats a request once."""
    return KumoClient(server.url, KEY, request_max_retries=1, launch_settling_time=0)


@pytest.fixture
def request_with_key() -> BatchPredictionRequest:
    return BatchPredictionRequest(
        model_training_job_id="trainingjob-cdnow-purchase", job_tags={"launch": LAUNCH}
    )


def finder(client: KumoClient):
    """Looks for the job that carries the tag of the launch."""

    def find() -> str | None:
        jobs = client.list_prediction_jobs({"launch": LAUNCH})
        return jobs[0].job_id if jobs else None

    return find


def launches(kumo) -> list[int | None]:
    """The statuses of the launches that reached the server."""
    return [r.status for r in kumo.requests if (r.method, r.path[-16:]) == ("POST", POSTED)]


POSTED = "/prediction_jobs"


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504, 599])
def test_a_passing_trouble_is_repeated(server, scripted, status):
    server.answer(Answer(b"busy", status), Answer(b"[]"))
    scripted.check()
    assert len(server.calls) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 410, 418, 422])
def test_a_refusal_is_not_repeated(server, scripted, status):
    server.answer(Answer(b"no", status))
    with pytest.raises(KumoAPIError):
        scripted.check()
    assert len(server.calls) == 1


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_the_number_of_attempts_is_the_true_one(server, retries):
    server.answer(Answer(b"busy", 503))
    with pytest.raises(KumoAPIError, match="busy") as caught:
        KumoClient(server.url, KEY, request_max_retries=retries).check()
    attempts = len(server.calls)
    assert attempts == retries + 1
    assert ("attempts" in str(caught.value)) == (retries > 0)
    assert retries == 0 or f"after {attempts} attempts" in str(caught.value)
    assert caught.value.status_code == 503


@pytest.mark.parametrize("break_it", ["drop", "lose_answer"])
def test_a_broken_connection_is_repeated(kumo, client, break_it):
    fault = getattr(kumo.faults, break_it)(path="/connectors")
    client.check()
    assert fault.hits == 1


def test_an_answer_that_is_cut_is_asked_for_again(server, scripted):
    server.answer(Answer(b"[", content_length=100), Answer(b"[]"))
    scripted.check()
    assert len(server.calls) == 2


def test_retry_after_in_seconds_is_obeyed(server, scripted):
    server.answer(Answer(b"", 429, {"Retry-After": "1"}), Answer(b"[]"))
    scripted.check()
    refused, repeated = server.calls
    assert repeated.at - refused.at >= 1


def test_retry_after_as_a_date_is_obeyed(server, scripted):
    def answer(request):
        if request.path == "/api/config":
            return Answer()
        if len(server.calls) > 1:
            return Answer(b"[]")
        return Answer(b"", 503, {"Retry-After": formatdate(request.at + 2, usegmt=True)})

    server.answer_by(answer)
    scripted.check()
    refused, repeated = server.calls
    assert int(repeated.at) >= int(refused.at) + 2


@pytest.mark.parametrize(
    "value", ["soon", "-3", "", "Wed, 99 Foo 2026", "Wed, 21 Oct 99999 07:28:00 GMT"]
)
def test_a_retry_after_that_says_nothing_counts_as_none(server, scripted, value):
    server.answer(Answer(b"", 503, {"Retry-After": value}), Answer(b"[]"))
    scripted.check()
    assert len(server.calls) == 2


def test_the_waits_double_up_to_a_minute_and_never_twice_the_same():
    def waits() -> list[float]:
        retry, found = RetryPolicy.up_to(8), []
        while retry.total:
            retry = retry.increment("GET", "/", error=OSError())
            found.append(retry.get_backoff_time())
        return found

    one, other = waits(), waits()
    assert one != other
    for least, wait in zip([0, 1, 2, 4, 8, 16, 32, 60], one, strict=True):
        assert least <= wait <= min(least + 0.5, 60)


def test_a_refused_connection_names_host_attempts_and_cause():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(KumoConnectionError) as caught:
            KumoClient(f"{url}/api", KEY, request_max_retries=1).check()
    for part in (url, "2 attempts", "Connection refused"):
        assert part in str(caught.value)


def test_a_host_that_is_not_there_is_named():
    with pytest.raises(KumoConnectionError) as caught:
        KumoClient("http://kumo.invalid/api", KEY, request_max_retries=0).check()
    for part in ("http://kumo.invalid", "1 attempt:", "ame"):
        assert part in str(caught.value)


def test_a_silent_server_counts_as_lost(kumo):
    kumo.faults.delay(30, path="/config", times=None)
    client = KumoClient(kumo.url, kumo.api_key, request_timeout=0.2, request_max_retries=1)
    with pytest.raises(KumoConnectionError, match=r"2 attempts: the answer did not come in time"):
        client.check()


def test_a_server_that_stops_in_the_middle_counts_as_lost():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def say_half() -> None:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{")
            done.wait(30)
            connection.close()

        done = threading.Event()
        thread = threading.Thread(target=say_half)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        with pytest.raises(KumoConnectionError, match="1 attempt: the answer did not come in time"):
            KumoClient(url, KEY, request_timeout=0.2, request_max_retries=0).check()
        done.set()
        thread.join()


# Requests that create #####################################################################


CREATE = {
    "prediction job": lambda c: c.create_prediction_job(BatchPredictionRequest()),
    "export": lambda c: c.create_export("bp-1", {}),
    "prediction table": lambda c: c.create_prediction_table_job("pquery-1", {}),
}


@pytest.mark.parametrize("create", CREATE.values(), ids=CREATE)
@pytest.mark.parametrize("status", [408, 429, 503])
def test_what_creates_is_sent_exactly_once(server, create, status):
    server.answer(Answer(b"busy", status))
    with pytest.raises(KumoAPIError, match=f"answered {status}: busy"):
        create(KumoClient(server.url, KEY, request_max_retries=5))
    assert [call.method for call in server.calls] == ["POST"]


@pytest.mark.parametrize("create", CREATE.values(), ids=CREATE)
def test_what_creates_is_sent_exactly_once_over_a_broken_connection(kumo, create):
    kumo.faults.drop(method="POST", times=None)
    with pytest.raises(KumoConnectionError, match="1 attempt:"):
        create(KumoClient(kumo.url, kumo.api_key, request_max_retries=5))
    assert [r.method for r in kumo.requests if r.method == "POST"] == ["POST"]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_launch_whose_answer_is_lost_is_found_and_not_repeated(kumo, request_with_key, retries):
    request = request_with_key.model_copy(
        update={"job_tags": {"launch": LAUNCH, "r": f"{retries}"}}
    )
    client = KumoClient(kumo.url, kumo.api_key, request_max_retries=retries)
    kumo.faults.lose_answer(method="POST", path=f"{POSTED}$")

    def find() -> str | None:
        jobs = client.list_prediction_jobs({"r": f"{retries}"})
        return jobs[0].job_id if jobs else None

    job_id, warnings = client.create_prediction_job(request, find=find)
    assert warnings == []
    assert [job["job_id"] for job in kumo.jobs if job["tags"].get("r") == f"{retries}"] == [job_id]
    assert launches(kumo) == [None]


@pytest.mark.parametrize("status", [429, 503])
def test_a_launch_refused_for_the_moment_is_repeated_once_it_is_known_not_to_be_there(
    server, scripted, request_with_key, status
):
    server.answer(Answer(b"busy", status), Answer(b"[]"), CREATED)
    assert scripted.create_prediction_job(request_with_key, find=finder(scripted)) == ("bp-1", [])
    assert [call.method for call in server.calls] == ["POST", "GET", "POST"]
    assert server.calls[0].body == server.calls[2].body


def test_a_launch_that_never_gets_through_looks_once_more_before_it_gives_up(
    server, scripted, request_with_key
):
    server.answer_by(
        lambda request: Answer(b"busy", 503) if request.method == "POST" else Answer(b"[]")
    )
    with pytest.raises(KumoAPIError, match="503 after 2 attempts: busy"):
        scripted.create_prediction_job(request_with_key, find=finder(scripted))
    assert [call.method for call in server.calls] == ["POST", "GET"] * 2


def test_a_refused_launch_is_not_repeated(kumo, client, request_with_key):
    kumo.faults.refuse_launch()
    with pytest.raises(KumoAPIError):
        client.create_prediction_job(request_with_key, find=finder(client))
    assert launches(kumo) == [200]


# Threads ##################################################################################


def test_many_threads_share_a_client_and_each_keeps_its_own_connection(server):
    server.answer_by(
        lambda request: Answer(
            b'{"job_id": "%s", "job_status_report": {"status": "DONE"}}'
            % request.path.rpartition("/")[2].encode()
        )
    )
    client = KumoClient(server.url, KEY)
    threads, calls = 8, 10
    together = threading.Barrier(threads)

    def work(thread: int) -> None:
        together.wait()
        for call in range(calls):
            job_id = f"bp-{thread}-{call}"
            assert client.get_prediction_job(job_id).job_id == job_id

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(threads)))
    ports = {call.client_port for call in server.calls}
    assert len(server.calls) == threads * calls
    assert len(ports) == threads
