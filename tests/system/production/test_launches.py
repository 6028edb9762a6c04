"""One launch, one job, on a Dagster as it is run in production."""

import dagster as dg
import pytest

from tests.support import wait_until
from tests.system.production.deployment import Deployment
from tests.system.runs.processes import LOOK, POST_JOB, of_day

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SUCCESS = dg.DagsterRunStatus.SUCCESS


def test_a_run_that_is_killed_finds_a_job_that_is_listed_late_or_has_lost_its_tags(
    quick: Deployment,
) -> None:
    untagged, late = quick.new_days("one", 2)
    kumo = quick.gate.open_to
    before = len(kumo.jobs)
    kumo.faults.forget_tags(times=1)
    look = quick.gate.hold(*LOOK, about=of_day(untagged), way="there", times=1)
    runs = [quick.launch("one_in_process", untagged)]
    look.wait()
    kumo.faults.list_late(14)
    answer = quick.gate.hold(*POST_JOB, about=of_day(late), times=1)
    runs.append(quick.launch("one_in_process", late))
    answer.wait()
    for run_id in runs:
        quick.kill(run_id)
    quick.gate.release_all()

    last = [quick.wait_for_end(run_id) for run_id in runs]

    assert [run.status for run in last] == [SUCCESS, SUCCESS]
    assert [run.parent_run_id for run in last] == runs
    jobs = [job["job_id"] for job in kumo.jobs[before:]]
    delivered = quick.materialized("one", "predictions")
    assert [{id} for id in jobs] == [delivered[untagged], delivered[late]]


def test_a_launch_without_an_answer_is_not_repeated_while_the_list_is_late(
    quick: Deployment,
) -> None:
    (partition,) = quick.new_days("one")
    faults = quick.gate.open_to.faults
    lost = faults.lose_answer(502, path="/prediction_jobs$", method="POST")
    faults.list_late(5)

    last = quick.wait_for_end(quick.launch("one_in_process", partition))

    assert last.status == SUCCESS
    assert lost.hits == 1
    (job_id,) = quick.launched("one", partition)[partition]
    assert quick.materialized("one", "predictions")[partition] == {job_id}


@pytest.mark.slow
def test_what_four_processes_note_at_the_same_moment_survives_and_when_they_are_killed_each_is_retried(
    production: Deployment,
) -> None:
    noting, killed = production.new_days("four", 2)
    steps = [f"step_{number}" for number in range(4)]
    answers = production.gate.hold(*POST_JOB)
    runs = {key: production.launch("four_multiprocess", key) for key in (noting, killed)}
    answers.wait(len(steps) * len(runs))
    production.kill_steps(runs[killed])
    answers.release()

    last = {key: production.wait_for_end(run_id) for key, run_id in runs.items()}

    assert {run.status for run in last.values()} == {SUCCESS}
    for step in steps:
        by_day = production.noted(step, "predictions")
        delivered = production.materialized(step, "predictions")
        for partition, (job_id,) in production.launched(step, *runs).items():
            assert by_day[partition] == delivered[partition] == {job_id}
            assert last[partition].tags[f"dagster/kumo_job.{step}__predictions"] == job_id


def test_the_sensor_continues_a_run_that_dagster_does_not_retry_and_no_other(
    quick: Deployment,
) -> None:
    # Days that no other model has taken: a job that lost its tags there is one from outside Dagster to the sensor.
    left, retried = quick.new_days("continued", 40)[:2]
    never = {"dagster/max_retries": "0"}
    looks = [quick.gate.hold(*LOOK, about=of_day(key)) for key in (left, retried)]
    with quick.web.sensor("kumo_jobs_sensor"):
        dead = quick.launch("continued_in_process", left, tags=never)
        again = quick.launch("continued_in_process", retried)
        for look in looks:
            look.wait()
        for run_id in (dead, again):
            quick.kill(run_id)
        quick.gate.release_all()

        assert quick.wait_for_end(again).status == SUCCESS
        (continued,) = wait_until(lambda: quick.continuations(dead), seconds=200)
        assert quick.wait_for_end(continued).status == SUCCESS

    assert len(quick.continuations(dead)) == 1
    assert [quick.continuations(run.run_id) for run in quick.attempts(again)] == [[], []]
    delivered = quick.materialized("continued", "predictions")
    for partition, jobs in quick.launched("continued", left, retried).items():
        assert len(jobs) == 1
        assert delivered[partition] == set(jobs)
