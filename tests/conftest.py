"""What the tests share: a stand-in, a client, a job that is done, and a Dagster instance."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import BatchPredictionJob, BatchPredictionJobResult, KumoClient
from dagster_kumo.api.connectors import kept_by_kumo
from dagster_kumo.api.records import OUTPUT_TYPES, BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import ScriptedServer

PURCHASE = "trainingjob-cdnow-purchase"

# What a script starts in its background ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

_running_fast = False


def _refuse_sockets(event: str, arguments: tuple[object, ...]) -> None:
    if _running_fast and event in ("socket.connect", "socket.bind"):
        raise AssertionError(
            f"A test that is marked as fast needs no server: {event} {arguments[1:]}"
        )


sys.addaudithook(_refuse_sockets)


@pytest.fixture(autouse=True)
def _fast_tests_need_no_server(request: pytest.FixtureRequest) -> Iterator[None]:
    global _running_fast
    _running_fast = request.node.get_closest_marker("fast") is not None
    yield
    _running_fast = False


@pytest.fixture(scope="session")
def _serving_kumo() -> Iterator[LocalKumo]:
    with LocalKumo(files_per_output=3) as kumo:
        yield kumo


@pytest.fixture
def kumo(_serving_kumo: LocalKumo) -> Iterator[LocalKumo]:
    """A stand-in whose outputs have three files, without the faults of other tests."""
    _serving_kumo.faults.clear()
    _serving_kumo.clear_requests()
    yield _serving_kumo
    _serving_kumo.faults.clear()


@pytest.fixture
def client(kumo: LocalKumo) -> KumoClient:
    return KumoClient(kumo.url, kumo.api_key, request_max_retries=1)


@pytest.fixture
def launch(client: KumoClient) -> Callable[..., BatchPredictionJob]:
    """Launches a prediction job of the stand-in's model; takes the fields of the request."""

    def launch(**fields: Any) -> BatchPredictionJob:
        request = BatchPredictionRequest(**{"model_training_job_id": PURCHASE, **fields})
        job_id, _ = client.create_prediction_job(request)
        return BatchPredictionJob(job_id, client)

    return launch


@pytest.fixture(scope="session")
def done_job_id(_serving_kumo: LocalKumo) -> str:
    """A job that is done, with predictions and embeddings."""
    client = KumoClient(_serving_kumo.url, _serving_kumo.api_key)
    outputs = [kept_by_kumo(output_type) for output_type in OUTPUT_TYPES]
    request = BatchPredictionRequest(model_training_job_id=PURCHASE, outputs=outputs)
    job_id, _ = client.create_prediction_job(request)
    return BatchPredictionJob(job_id, client).result(poll_interval=0.05).id


@pytest.fixture
def result(done_job_id: str, client: KumoClient) -> BatchPredictionJobResult:
    return BatchPredictionJobResult(done_job_id, client)


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory, the same for all tests of a module."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A server that answers as the test tells it."""
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture
def elsewhere() -> Iterator[ScriptedServer]:
    """Another such server."""
    server = ScriptedServer()
    yield server
    server.stop()
