from __future__ import annotations

from collections.abc import Iterator

import pytest

from dagster_kumo import BatchPredictionJob, KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE


@pytest.fixture(scope="session")
def _busy_kumo() -> Iterator[LocalKumo]:
    with LocalKumo(queue_seconds=600) as kumo:
        yield kumo


@pytest.fixture
def busy_kumo(_busy_kumo: LocalKumo) -> Iterator[LocalKumo]:
    """A stand-in whose jobs stay in the queue."""
    _busy_kumo.faults.clear()
    _busy_kumo.clear_requests()
    yield _busy_kumo
    _busy_kumo.faults.clear()


@pytest.fixture
def busy_client(busy_kumo: LocalKumo) -> KumoClient:
    return KumoClient(busy_kumo.url, busy_kumo.api_key, request_max_retries=1)


@pytest.fixture
def queued_job(busy_client: KumoClient) -> BatchPredictionJob:
    """A job that does not get on."""
    request = BatchPredictionRequest(model_training_job_id=PURCHASE)
    job_id, _ = busy_client.create_prediction_job(request)
    return BatchPredictionJob(job_id, busy_client)
