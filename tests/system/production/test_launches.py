"""One launch, one job, on a Dagster as it is run in production."""

import os
import re
import signal

import dagster as dg
import pytest

from tests.support import day
from tests.system.production.deployment import Deployment
from tests.system.runs.processes import LOOK, POST_JOB, of_day

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SUCCESS = dg.DagsterRunStatus.SUCCESS
JOB_ID = "dagster-kumo/job_id"


def launched(production: Deployment, model: str, *days: str) -> dict[str, list[str]]:
    """The jobs that were launched for the days of a model."""
    by_day: dict[str, list[str]] = {day: [] for day in days}
    for job in production.jobs(model):
        if (partition := job["tags"]["dagster.partition"]) in by_day:
            by_day[partition].append(job["job_id"])
    return by_day


def noted(production: Deployment, *path: str) -> dict[str | None, set[str]]:
    """The jobs that runs have noted at an asset, by partition."""
    by_day: dict[str | None, set[str]] = {}
    for record in production.instance.fetch_observations(dg.AssetKey(path), limit=1000).records:
        observation = record.event_log_entry.asset_observation
        assert observation is not None
        job_id = str(observation.metadata[JOB_ID].value)
        by_day.setdefault(observation.partition, set()).add(job_id)
    return by_day


def kill(production: Deployment, run_id: str) -> None:
    """Kill the process of a run."""
    lines = [entry.message for entry in production.instance.all_logs(run_id)]
    (pid,) = {found[1] for found in map(re.compile(r"in process \(pid: (\d+)\)").search, lines) if found}  # fmt: skip
    os.kill(int(pid), signal.SIGKILL)


def test_a_run_that_is_killed_finds_a_job_that_is_listed_late_or_has_lost_its_tags(
    quick: Deployment,
) -> None:
    untagged, late = day(16), day(15)
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
        kill(quick, run_id)
    quick.gate.release_all()

    last = [quick.wait_for_end(run_id) for run_id in runs]

    assert [run.status for run in last] == [SUCCESS, SUCCESS]
    assert [run.parent_run_id for run in last] == runs
    jobs = [job["job_id"] for job in kumo.jobs[before:]]
    delivered = quick.materialized("one", "predictions")
    assert [{id} for id in jobs] == [delivered[untagged], delivered[late]]


def test_what_four_processes_note_at_the_same_moment_all_survives(quick: Deployment) -> None:
    days = [day(18), day(17)]
    steps = [f"step_{number}" for number in range(4)]
    answers = quick.gate.hold(*POST_JOB)
    runs = {day: quick.launch("four_multiprocess", day) for day in days}
    answers.wait(len(steps) * len(days))
    answers.release()

    last = {day: quick.wait_for_end(run_id) for day, run_id in runs.items()}

    for step in steps:
        jobs = launched(quick, step, *days)
        assert [len(ids) for ids in jobs.values()] == [1, 1]
        by_day = noted(quick, step, "predictions")
        for partition, (job_id,) in jobs.items():
            assert by_day[partition] == {job_id}
            assert last[partition].tags[f"dagster-kumo/job.{step}__predictions"] == job_id
