"""Runs that wait for Kumo in Dagster's queue, on a Dagster as it is run in production."""

import os
from typing import Any

import dagster as dg
import pytest

from dagster_kumo import HOLD_UNTIL_DONE
from tests.support import wait_until
from tests.system.production.deployment import Deployment
from tests.system.runs.processes import POST_JOB, of_day

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
        return run.tags.get(f"dagster/kumo_job.{op}")

    return wait_until(noted, seconds=60)


def jobs_of(production: Deployment, model: str, partition: str) -> list[dict[str, Any]]:
    return [j for j in production.jobs(model) if j["tags"]["dagster.partition"] == partition]


def test_a_run_is_held_while_kumo_works_and_delivers_its_job(production: Deployment) -> None:
    (partition,) = production.new_days("one")
    run_id = production.launch("one_in_process", partition, tags=HOLD_UNTIL_DONE)
    job_id = job_of(production, run_id, "one__predictions")

    running = wait_until(
        lambda: (run := run_of(production, run_id)).tags[PROGRESS].startswith("RUNNING") and run,
        seconds=60,
    )
    assert running.status == QUEUED
    assert running.tags["dagster/kumo_tracking_url"].startswith("http")
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


# What is killed, and where the call of the sensor or of the run is then.
CODE, DAEMON, WORKER = "code server", "daemon", "worker"
KILLS = {
    "before the look": ([CODE], "back", "GET", "/prediction_jobs$"),
    "before the launch": ([CODE], "there", *POST_JOB),
    "before its answer": ([CODE], "back", *POST_JOB),
    "the daemon, before the answer": ([DAEMON], "back", *POST_JOB),
    "while Kumo works": ([CODE], None, "", ""),
    "the daemon, while Kumo works": ([DAEMON], None, "", ""),
    "everything, while Kumo works": ([CODE, DAEMON], None, "", ""),
    "as soon as the job is done": ([CODE], "done", "", ""),
    "the worker, while it stores": ([WORKER], "back", "GET", "^/files/"),
}
# More often than once, to look for what happens rarely.
TIMES = int(os.environ.get("HELD_RUN_KILLS", "1"))


@pytest.mark.parametrize("_time", range(TIMES))
@pytest.mark.parametrize(
    "kill",
    [
        kill if kill == "before its answer" else pytest.param(kill, marks=pytest.mark.slow)
        for kill in KILLS
    ],
)
def test_a_held_run_has_one_job_whatever_is_killed(
    kill: str, _time: int, quick: Deployment
) -> None:
    processes, way, method, path = KILLS[kill]
    (partition,) = quick.new_days("one")
    calls = None
    if way in ("there", "back"):
        about = "launch_key" if kill == "before the look" else of_day(partition)
        calls = quick.gate.hold(method, path, about=about, way=way, times=1)
    run_id = quick.launch("one_in_process", partition, tags=HOLD_UNTIL_DONE)
    if calls is not None:
        calls.wait()
    else:
        job_id = job_of(quick, run_id, "one__predictions")
        if way == "done":
            wait_until(lambda: is_done(quick, job_id), seconds=60)
    if processes == [WORKER]:
        quick.kill(run_id)
        quick.gate.release_all()
    else:
        for process in processes:
            quick.services.kill(process)
        quick.gate.release_all()
        for process in processes:
            quick.services.start(process)

    last = quick.wait_for_end(run_id)

    assert last.status == SUCCESS
    (job,) = jobs_of(quick, "one", partition)
    assert quick.materialized("one", "predictions")[partition] == {job["job_id"]}


def is_done(production: Deployment, job_id: str) -> bool:
    jobs = {job["job_id"]: job for job in production.gate.open_to.jobs}
    return jobs[job_id]["job_status_report"]["status"] == "DONE"


def test_a_job_that_failed_fails_the_run_and_the_retry_launches_again(quick: Deployment) -> None:
    (partition,) = quick.new_days("one")
    quick.gate.open_to.faults.fail_job("no such column", times=1)
    run_id = quick.launch("one_in_process", partition, tags=HOLD_UNTIL_DONE)

    last = quick.wait_for_end(run_id)

    assert (last.status, last.parent_run_id) == (SUCCESS, run_id)
    statuses = [job["job_status_report"]["status"] for job in jobs_of(quick, "one", partition)]
    assert statuses == ["FAILED", "DONE"]
    failed = run_of(quick, run_id)
    assert (failed.status, failed.tags[PROGRESS]) == (dg.DagsterRunStatus.FAILURE, "FAILED")


def test_a_run_that_is_terminated_while_it_is_held_cancels_its_jobs(
    production: Deployment,
) -> None:
    (partition,) = production.new_days("four")
    run_id = production.launch("four_multiprocess", partition, tags=HOLD_UNTIL_DONE)
    for number in range(4):
        job_of(production, run_id, f"step_{number}__predictions")

    production.web.terminate(run_id)

    def cancelled() -> bool:
        jobs = [job for n in range(4) for job in jobs_of(production, f"step_{n}", partition)]
        return [job["job_status_report"]["status"] for job in jobs] == ["CANCELLED"] * 4

    wait_until(cancelled, seconds=60)
    wait_until(lambda: run_of(production, run_id).tags[HOLD] == "cancelled", seconds=60)


@pytest.mark.slow
def test_a_cancel_that_is_killed_before_it_is_noted_is_carried_on(production: Deployment) -> None:
    (partition,) = production.new_days("one")
    run_id = production.launch("one_in_process", partition, tags=HOLD_UNTIL_DONE)
    job_of(production, run_id, "one__predictions")
    cancel = production.gate.hold("POST", "/cancel$", way="back", times=1)
    production.web.terminate(run_id)
    cancel.wait()
    production.services.kill(CODE)
    production.gate.release_all()
    production.services.start(CODE)

    wait_until(lambda: run_of(production, run_id).tags[HOLD] == "cancelled", seconds=60)
    (job,) = jobs_of(production, "one", partition)
    assert job["job_status_report"]["status"] == "CANCELLED"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "outputs"),
    [("pair", ["embeddings"]), ("tables", ["prediction_table", "predictions"])],
)
def test_a_backfill_of_many_runs_is_held(model: str, outputs: list[str], quick: Deployment) -> None:
    partitions = quick.new_days(model, 3)
    assets = [[model, output] for output in outputs]
    backfill = quick.backfill(assets, *partitions, tags=HOLD_UNTIL_DONE)

    assert quick.wait_for_backfill(backfill).value == "COMPLETED_SUCCESS"
    runs = quick.runs_of_backfill(backfill)
    assert [run.tags[HOLD] for run in runs] == ["released"] * 3
    made = quick.materialized(model, outputs[-1])
    for partition in partitions:
        (job,) = jobs_of(quick, model, partition)
        assert made[partition] == {job["job_id"]}


@pytest.mark.slow
def test_a_backfill_in_one_run_is_not_held(quick: Deployment) -> None:
    partitions = quick.new_days("many", 3)
    backfill = quick.backfill([["many", "predictions"]], *partitions, tags=HOLD_UNTIL_DONE)

    assert quick.wait_for_backfill(backfill).value == "COMPLETED_SUCCESS"
    assert [len(jobs_of(quick, "many", partition)) for partition in partitions] == [1, 1, 1]
