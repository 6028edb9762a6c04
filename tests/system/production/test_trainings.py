"""One training, one job, and one champion, on a Dagster as it is run in production."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import KumoClient
from dagster_kumo.api.records import TrainingJobResource
from dagster_kumo.jobs.promotion import Author, promote
from tests.support import PURCHASE, remove_marks, wait_until
from tests.system.production.deployment import END_SECONDS, Deployment
from tests.system.runs.processes import POST_TRAINING

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

OLD = f"{PURCHASE}-old"
TRAINING_JOB_ID = "dagster-kumo/training_job_id"


@pytest.fixture
def client(quick: Deployment) -> Iterator[KumoClient]:
    """Of the server behind the deployment, without what the test promotes."""
    kumo = quick.gate.open_to
    client = KumoClient(kumo.url, kumo.api_key)
    promote(client, OLD, "trained", Author())
    yield client
    remove_marks(client)


def trained_by(
    client: KumoClient, production: Deployment, run_id: str
) -> list[TrainingJobResource]:
    """The training jobs that a run and its retries launched."""
    runs = {run.run_id for run in production.attempts(run_id)}
    return [job for job in client.list_training_jobs() if job.tags.get("dagster.run_id") in runs]


def made(production: Deployment, asset: str) -> list[Any]:
    """The training jobs that an asset was materialized from."""
    key = dg.AssetKey(["trained", asset])
    records = production.instance.fetch_materializations(key, limit=9).records
    found = [record.asset_materialization for record in records]
    return [one.metadata[TRAINING_JOB_ID].value for one in found if one is not None]


def test_a_run_that_is_killed_while_it_trains_and_while_it_promotes_has_trained_once(
    quick: Deployment, client: KumoClient
) -> None:
    """The daemon retries it both times. In the end there is one champion."""
    launching = quick.gate.hold(*POST_TRAINING, about='"trained/candidate"', times=1)
    # The new champion is marked, and the one before is not yet unmarked.
    between = quick.gate.hold("PATCH", "/tags$", about="dagster.promoted_at=", times=1)
    run_id = quick.launch("trained_in_process")
    launching.wait()
    quick.kill(run_id)
    launching.release()
    # The first retry looks for the job of the run before, which takes its time.
    wait_until(lambda: made(quick, "candidate"), seconds=END_SECONDS)
    between.wait()
    quick.kill(quick.attempts(run_id)[-1].run_id)
    quick.gate.release_all()

    last = quick.wait_for_end(run_id)

    assert last.status == dg.DagsterRunStatus.SUCCESS
    assert len(quick.attempts(run_id)) == 3
    (job,) = trained_by(client, quick, run_id)
    marked = [j.job_id for j in client.list_training_jobs() if "dagster.champion" in j.tags]
    assert marked == [job.job_id]
    assert made(quick, "candidate") == made(quick, "model") == [job.job_id]


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
