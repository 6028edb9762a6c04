import pytest

from dagster_kumo import BatchPredictionJobResult, KumoClient
from dagster_kumo.api.records import BatchPredictionRequest
from tests.system.deployments.kumo_server import DeployedKumo


@pytest.fixture
def client(server: DeployedKumo) -> KumoClient:
    return KumoClient(server.url, server.api_key, request_max_retries=0)


@pytest.fixture
def result(client: KumoClient) -> BatchPredictionJobResult:
    """The result of a job for one day."""
    request = BatchPredictionRequest(
        model_training_job_id="trainingjob-1", prediction_time="2026-11-05T00:00:00Z"
    )
    return BatchPredictionJobResult(client.create_prediction_job(request)[0], client)
