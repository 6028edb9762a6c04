"""Runs that a person terminates: in the first second, while they wait for a pool, and with many jobs."""

import dagster as dg
import pytest

from tests.support import wait_until
from tests.system.production.definitions import EXECUTORS, POOL
from tests.system.production.deployment import Deployment
from tests.system.runs.processes import LOOK, of_day

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SUCCESS = dg.DagsterRunStatus.SUCCESS
CANCELED = dg.DagsterRunStatus.CANCELED
STARTED = dg.DagsterRunStatus.STARTED
SET_LIMIT = "mutation($pool: String!) { setConcurrencyLimit(concurrencyKey: $pool, limit: 1) }"


def wait_for_status(production: Deployment, run_id: str, *statuses: dg.DagsterRunStatus) -> None:
    """Wait until a run has one of some statuses."""

    def has_status() -> bool:
        run = production.instance.get_run_by_id(run_id)
        return run is not None and run.status in statuses

    wait_until(has_status, seconds=120, pause=0.02)


def is_terminated(production: Deployment, run_id: str) -> bool:
    """Terminate a run, if Dagster can: it refuses while it does not know the run's process."""
    try:
        production.web.terminate(run_id)
    except AssertionError:
        return False
    return True


@pytest.mark.parametrize(
    "executor", ["in_process", pytest.param("multiprocess", marks=pytest.mark.slow)]
)
def test_a_run_that_is_terminated_while_it_starts_launches_nothing(
    executor: str, production: Deployment
) -> None:
    starting, started = production.new_days("one", 2)
    runs = {key: production.launch(f"one_{executor}", key) for key in (starting, started)}
    wait_for_status(production, runs[starting], dg.DagsterRunStatus.STARTING, STARTED)
    wait_until(lambda: is_terminated(production, runs[starting]), seconds=60)
    wait_for_status(production, runs[started], STARTED)
    production.web.terminate(runs[started])

    ends = {production.wait_for_end(run_id).status for run_id in runs.values()}

    assert ends == {CANCELED}
    assert not {starting, started} & set(production.materialized("one", "predictions"))
    jobs = production.launched("one", starting, started)
    assert jobs[starting] == []
    # The other run may have begun.
    statuses = {j["job_id"]: j["job_status_report"]["status"] for j in production.jobs("one")}
    assert all(statuses[job_id] == "CANCELLED" for job_id in jobs[started])


@pytest.mark.slow
def test_a_run_that_is_terminated_while_it_waits_for_a_pool_launches_nothing(
    production: Deployment,
) -> None:
    """The run that has the pool is killed: its slot becomes free, and its retry delivers its job."""
    production.web.ask(SET_LIMIT, pool=POOL)
    holding, *waiting = production.new_days("pooled", 3)
    looks = production.gate.hold(*LOOK, about=of_day(holding), way="there")
    holder = production.launch("pooled_in_process", holding)
    looks.wait()
    runs = [
        production.launch(f"pooled_{executor}", key)
        for executor, key in zip(EXECUTORS, waiting, strict=True)
    ]
    for run_id in runs:
        wait_until(lambda r=run_id: is_blocked(production, r), seconds=120)
        production.web.terminate(run_id)
    production.kill(holder)
    looks.release()

    assert [production.wait_for_end(run_id).status for run_id in runs] == [CANCELED, CANCELED]
    assert production.wait_for_end(holder).status == SUCCESS
    jobs = production.launched("pooled", holding, *waiting)
    assert [jobs[key] for key in waiting] == [[], []]
    (job_id,) = jobs[holding]
    assert production.materialized("pooled", "predictions") == {holding: {job_id}}


def is_blocked(production: Deployment, run_id: str) -> bool:
    """Whether Dagster says that a step of a run waits for its pool."""
    entries = production.instance.all_logs(run_id)
    return any("blocked by" in entry.message and POOL in entry.message for entry in entries)


@pytest.mark.slow
def test_twenty_jobs_are_cancelled_though_each_answer_takes_two_seconds(
    production: Deployment,
) -> None:
    partitions = production.new_days("many", 20)
    production.gate.open_to.faults.delay(2, times=None)
    cancels = production.gate.hold("POST", "/cancel$", way="there")
    run_id = production.launch("many_in_process", *partitions)
    wait_until(lambda: all(production.launched("many", *partitions).values()), seconds=120)
    production.web.terminate(run_id)

    cancels.wait(len(partitions))  # all at once: none of them has been answered
    cancels.release()

    assert production.wait_for_end(run_id).status == CANCELED
    jobs = [j for j in production.jobs("many") if j["tags"]["dagster.partition"] in partitions]
    assert [job["job_status_report"]["status"] for job in jobs] == ["CANCELLED"] * 20
