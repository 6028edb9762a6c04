"""What the tests share: servers, a client, a job that is done, a Dagster instance, and the fast tier."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import BatchPredictionJob, BatchPredictionJobResult, KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import ScriptedServer
from tests.support import PURCHASE, has, instance_in, predict_all, remove_marks

# A shell starts background jobs with SIGINT ignored, and their processes inherit that. Tests end runs with SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What is imported by now stays: the garbage collector need not look through all of it again and again."""
    gc.collect()
    gc.freeze()


# The fast tier #############################################################################

SERVERS = {"_serving_kumo", "server", "elsewhere", "s3_options"}

_running_fast = False


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that asks for a server is slow, also in a file of the fast tier."""
    for item in items:
        if SERVERS.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def _refuse_servers(event: str, arguments: tuple[object, ...]) -> None:
    if _running_fast and event in ("socket.connect", "socket.bind", "subprocess.Popen"):
        raise AssertionError(
            f"A fast test starts a server or a process: mark it as slow. {event} {arguments}"
        )


sys.addaudithook(_refuse_servers)


@pytest.fixture(autouse=True)
def _fast_tests_need_no_server(request: pytest.FixtureRequest) -> Iterator[None]:
    global _running_fast
    node = request.node
    _running_fast = bool(node.get_closest_marker("fast") and not node.get_closest_marker("slow"))
    yield
    _running_fast = False


# Servers and what they have ################################################################


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
def nothing_promoted(client: KumoClient) -> Iterator[None]:
    """Takes back, after the test, what it has promoted."""
    yield
    remove_marks(client)


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
    return predict_all(_serving_kumo)


@pytest.fixture
def result(done_job_id: str, client: KumoClient) -> BatchPredictionJobResult:
    return BatchPredictionJobResult(done_job_id, client)


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance in memory, the same for all tests of a module.

    With older versions it is on disk: one in memory refuses to write an event while another thread writes one.
    """
    if not has("dagster", "1.12.18"):
        with instance_in(tmp_path_factory.mktemp("dagster")) as instance:
            yield instance
        return
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


@pytest.fixture(scope="session")
def s3_options() -> Iterator[dict[str, Any]]:
    """How to reach a real S3 API on this machine, which has the bucket `kumo`."""
    import s3fs  # here, for the fast tier does without
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "somebody", "secret": "s3cr3t", "endpoint_url": f"http://{host}:{port}"}
    s3fs.S3FileSystem(**options).mkdir("kumo")
    yield options
    server.stop()
