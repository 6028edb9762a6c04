"""The SDK and the project on one server that records what it is asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from packaging.version import Version

from dagster_kumo import (
    ArtifactExportJob,
    BatchPredictionJob,
    BatchPredictionJobResult,
    KumoClient,
    KumoError,
    S3Connector,
)
from dagster_kumo.api.connectors import prediction_output
from dagster_kumo.api.records import OUTPUT_TYPES, BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from dagster_kumo.local.http.wire import RecordedRequest
from tests.support import PURCHASE
from tests.system.contract.differences import ASSUMED_OF_GRAPHS, comparable
from tests.system.contract.environments import python_with_sdk
from tests.system.contract.sdk import PYTHON, Sdk, SdkError, version_of

OLDEST_SDK = Version("1.2.4")
IN_3 = Version("3.dev0")
"""The first of the versions that speak the newer generation of the API."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "younger(what): what SDK 1.2.4 does not have yet")
    config.addinivalue_line(
        "markers", "not_in_3(why): what SDK 3.0 does not have, or does otherwise"
    )


left_out = pytest.StashKey[list[str]]()


def generations() -> list[str]:
    """The generations of the SDK that are asked: both, unless the environment names one of them."""
    if "KUMO_SDK_PYTHON" in os.environ:
        return ["3.0" if version_of("kumoai") >= IN_3 else "2.x"]
    return ["2.x", "3.0"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "generation" in metafunc.fixturenames:
        metafunc.parametrize("generation", generations(), scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the SDK that is asked does not have, and tell so at the end of the run."""
    is_oldest = version_of("kumoai") == OLDEST_SDK
    lines: list[str] = []
    kept: list[pytest.Item] = []
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        asked = [parameters["generation"]] if "generation" in parameters else generations()
        marker = item.get_closest_marker("not_in_3") if asked == ["3.0"] else None
        marker = marker or (item.get_closest_marker("younger") if is_oldest else None)
        if marker is None:
            kept.append(item)
        else:
            lines.append(f"{marker.args[0]}: {item.nodeid}")
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept
    config.stash[left_out] = lines


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    lines = config.stash.get(left_out, [])
    if lines:
        terminalreporter.section("left out: not in the SDK that is asked")
        for line in lines:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def sdk_python(generation: str) -> str:
    """The Python whose SDK is asked."""
    is_here = "KUMO_SDK_PYTHON" in os.environ or generation == "2.x"
    return PYTHON if is_here else python_with_sdk()


@pytest.fixture(scope="session")
def sdk_version(sdk_python: str) -> Version:
    return version_of("kumoai", sdk_python)


@pytest.fixture(scope="session")
def served(generation: str) -> Literal["2", "3"]:
    """The generation that the stand-in speaks."""
    return "3" if generation == "3.0" else "2"


@pytest.fixture(scope="session")
def both_ask(served: Literal["2", "3"]) -> Iterator[LocalKumo]:
    """The server that both ask; jobs are done at once, for the SDK looks every ten seconds."""
    with LocalKumo(files_per_output=2, api=served) as kumo:
        yield kumo


@pytest.fixture(scope="session")
def sdk(both_ask: LocalKumo, sdk_python: str) -> Iterator[Sdk]:
    """The SDK, connected."""
    with Sdk(sdk_python) as sdk:
        sdk("connect", both_ask.url, both_ask.api_key)
        yield sdk


@pytest.fixture(scope="session")
def ours(both_ask: LocalKumo) -> KumoClient:
    """The project's client, connected."""
    client = KumoClient(both_ask.url, both_ask.api_key, request_max_retries=0)
    client.check()
    return client


@pytest.fixture(scope="session")
def job_id(ours: KumoClient) -> str:
    """A prediction job that is done, with predictions and embeddings.

    They go to a bucket, since an older SDK cannot read a job whose outputs stay with Kumo.
    """
    bucket = S3Connector("s3://bucket/out")
    request = BatchPredictionRequest(
        model_training_job_id=PURCHASE,
        outputs=[prediction_output(output_type, bucket, "CHURN") for output_type in OUTPUT_TYPES],
    )
    id, _ = ours.create_prediction_job(request)
    return BatchPredictionJob(id, ours).result(poll_interval=0.05).id


@pytest.fixture(scope="session")
def export_id(ours: KumoClient, job_id: str) -> str:
    """An export that is done."""
    id = BatchPredictionJobResult(job_id, ours).export(
        "predictions", S3Connector("s3://bucket/out")
    )
    return ArtifactExportJob(id, ours).result(poll_interval=0.05)


@pytest.fixture(scope="session")
def table_id(ours: KumoClient, job_id: str) -> str:
    """The job that made the prediction table of `job_id`."""
    id = ours.get_prediction_job(job_id).config.pred_table_job_id
    assert id is not None
    return id


@dataclass
class Asked:
    """One request as both sent it, and what each made of the answer."""

    theirs: RecordedRequest
    ours: RecordedRequest
    their_value: Any
    our_value: Any


Same = Callable[..., Asked]

ANSWERS: dict[str, Any] = {
    "/prediction_jobs": ["bp-job-1", {"warnings": [], "errors": [], "info_items": []}],
    "/artifact": {"job_id": "export-job-1"},
}
"""What both are told of a launch where only the request counts, so that nothing has to run."""


@pytest.fixture
def same(both_ask: LocalKumo, sdk_version: Version) -> Same:
    """Lets both ask for the same and holds their requests against each other.

    The SDK asks for more on its way, and goes on asking about its jobs in the background: what is
    compared is the last request of the method and path that are named.
    """

    def ask(
        method: str, path: str, call: Callable[[], Any], answered: bool
    ) -> tuple[RecordedRequest, Any]:
        both_ask.clear_requests()
        if answered:
            both_ask.faults.answer(200, body=ANSWERS[path], path=f"{path}$", method=method)
        try:
            value = call()
        except (SdkError, KumoError) as error:
            value = error
        found = [
            request
            for request in both_ask.requests
            if (request.method, request.path) == (method, f"/api/v1{path}")
        ]
        assert found, (value, [(r.method, r.path) for r in both_ask.requests])
        return found[-1], value

    def same(
        method: str,
        path: str,
        theirs: Callable[[], Any],
        ours: Callable[[], Any],
        *,
        refused: bool = False,
        answered: bool = False,
    ) -> Asked:
        their_request, their_value = ask(method, path, theirs, answered)
        our_request, our_value = ask(method, path, ours, answered)
        for value in (their_value, our_value):
            assert isinstance(value, Exception) == refused, value
        told = their_request.query.items() - ASSUMED_OF_GRAPHS.items()
        assert our_request.query == dict(told)
        for header in ("x-api-key", "content-type"):
            assert our_request.headers.get(header) == their_request.headers.get(header)
        body, our_body = comparable(their_request.json, our_request.json, sdk_version)
        assert our_body == body
        return Asked(their_request, our_request, their_value, our_value)

    return same
