"""Runs that wait for Kumo in Dagster's queue, on a Dagster as it is run in production."""

from typing import Any

import dagster as dg
import pytest

from dagster_kumo import HOLD_UNTIL_DONE
from tests.support import day, wait_until
from tests.system.production.deployment import Deployment

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

HOLD, PROGRESS = "dagster-kumo/hold", "dagster-kumo/progress"
SUCCESS, QUEUED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.QUEUED


def run_of(production: Deployment, run_id: str) -> dg.DagsterRun:
    run = production.instance.get_run_by_id(run_id)
    assert run is not None
    return run


def job_of(production: Deployment, run_id: str, op: str) -> str:
    """The job that is noted on a run while it is held."""

    def noted() -> str | None:
        run = run_of(production, run_id)
        assert run.status == QUEUED
        return run.tags.get(f"dagster-kumo/job.{op}")

    return wait_until(noted, seconds=60)


def jobs_of(production: Deployment, model: str, partition: str) -> list[dict[str, Any]]:
    return [j for j in production.jobs(model) if j["tags"]["dagster.partition"] == partition]


def test_a_run_is_held_while_kumo_works_and_delivers_its_job(production: Deployment) -> None:
    partition = day(2)
    run_id = production.launch("one_in_process", partition, tags=HOLD_UNTIL_DONE)
    job_id = job_of(production, run_id, "one__predictions")

    running = wait_until(
        lambda: (run := run_of(production, run_id)).tags[PROGRESS].startswith("RUNNING") and run,
        seconds=60,
    )
    assert running.status == QUEUED
    assert running.tags["dagster-kumo/tracking_url"].startswith("http")
    last = production.wait_for_end(run_id)

    assert (last.status, last.run_id) == (SUCCESS, run_id)
    assert last.tags[HOLD] == "released"
    assert last.tags[PROGRESS] == "DONE"
    assert [job["job_id"] for job in jobs_of(production, "one", partition)] == [job_id]
    assert production.materialized("one", "predictions")[partition] == {job_id}
    assert any(f"Attached to prediction job {job_id}" in line for line in production.lines(run_id))
    stats = production.instance.get_run_stats(run_id)
    assert stats.start_time is not None
    assert stats.end_time is not None
    # The job alone takes sixteen seconds.
    assert stats.end_time - stats.start_time < 12
