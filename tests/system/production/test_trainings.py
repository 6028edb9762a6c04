"""Models that are trained, on a Dagster as it is run in production."""

import dagster as dg
import pytest

from dagster_kumo import KumoClient
from dagster_kumo.api.records import TrainingJobResource
from tests.system.production.deployment import Deployment

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]


def trained_by(
    client: KumoClient, production: Deployment, run_id: str
) -> list[TrainingJobResource]:
    """The training jobs that a run and its retries launched."""
    runs = {run.run_id for run in production.attempts(run_id)}
    return [job for job in client.list_training_jobs() if job.tags.get("dagster.run_id") in runs]


@pytest.mark.slow
def test_a_pool_limits_how_many_models_of_a_workspace_train_at_once(quick: Deployment) -> None:
    """Three of them, of a pool with a limit of two."""
    kumo = quick.gate.open_to
    client = KumoClient(kumo.url, kumo.api_key)
    run_id = quick.launch("workspace_multiprocess")

    assert quick.wait_for_end(run_id).status == dg.DagsterRunStatus.SUCCESS

    jobs = trained_by(client, quick, run_id)
    assert {job.config.pquery_id for job in jobs} == {
        f"pquery-cdnow-{name}" for name in ("purchase", "spend", "band")
    }
    times = [(job.created_at, job.job_status_report.end_time) for job in jobs]
    at_once = [
        sum(begun <= moment < ended for begun, ended in times if begun and ended)
        for moment, _ in times
        if moment
    ]
    assert max(at_once) == 2
