"""One launch, one job, on a Dagster as it is run in production."""

import os
import re
import signal
from typing import Any

import dagster as dg
import pytest

from tests.support import day, wait_until
from tests.system.production.deployment import LOCATION, Deployment
from tests.system.runs.processes import LOOK, POST_JOB, of_day
from tests.system.runs.webserver import BACKFILL

pytestmark = [pytest.mark.production, pytest.mark.timeout(400)]

SUCCESS = dg.DagsterRunStatus.SUCCESS
NO_RETRIES = {"dagster/max_retries": "0"}
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


def backfill_of_job(production: Deployment, job: str, *days: str) -> str:
    """Launch a backfill of a job: its id."""
    repository = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
    params: dict[str, Any] = {
        "selector": {
            "partitionSetName": f"{job}_partition_set",
            "repositorySelector": repository,
        },
        "partitionNames": list(days),
        "tags": [{"key": key, "value": value} for key, value in NO_RETRIES.items()],
    }
    answer = production.web.ask(BACKFILL, params=params)["launchPartitionBackfill"]
    return answer["backfillId"]


def kill(production: Deployment, run_id: str) -> None:
    """Kill the process of a run."""
    lines = [entry.message for entry in production.instance.all_logs(run_id)]
    (pid,) = {found[1] for found in map(re.compile(r"in process \(pid: (\d+)\)").search, lines) if found}  # fmt: skip
    os.kill(int(pid), signal.SIGKILL)


def test_a_backfill_executed_again_pays_nothing_and_a_new_one_does(production: Deployment) -> None:
    """Backfills of an asset, of one in a single run, and of a job. A new job is not known at first."""
    days = {"one": [day(14)], "many": [day(14), day(13)], "by_job": [day(13)]}
    models = {"one": "one", "many": "many", "by_job": "one"}
    paths = {name: (model, "predictions") for name, model in models.items()}
    faults = production.gate.open_to.faults
    faults.show_late(4, path="/prediction_jobs/")
    lost = faults.answer(404, path="^/files/", times=None)
    first = {
        name: production.backfill([paths[name]], *days[name], tags=NO_RETRIES)
        for name in ("one", "many")
    }
    first["by_job"] = backfill_of_job(production, "one_in_process", *days["by_job"])
    for backfill_id in first.values():
        production.wait_for_backfill(backfill_id)
    assert lost.hits
    faults.clear()

    again = {name: production.web.re_execute_backfill(id) for name, id in first.items()}
    for backfill_id in again.values():
        production.wait_for_backfill(backfill_id)

    for name, model in models.items():
        jobs = launched(production, model, *days[name])
        assert [len(ids) for ids in jobs.values()] == [1] * len(days[name]), name
        delivered = production.materialized(*paths[name])
        assert {d: delivered[d] for d in days[name]} == {d: {*ids} for d, ids in jobs.items()}, name
    (run,) = production.runs_of_backfill(again["many"])
    tags = {key: value for key, value in run.tags.items() if key.startswith("dagster-kumo/job")}
    assert tags.pop("dagster-kumo/job_count.many__predictions") == "2"
    assert list(tags) == ["dagster-kumo/job.many__predictions"]

    (one_day,) = days["one"]
    anew = production.backfill([paths["one"]], one_day, tags=NO_RETRIES)
    wait_until(lambda: len(launched(production, "one", one_day)[one_day]) == 2, seconds=120)
    production.web.cancel_backfill(anew)
    production.wait_for_backfill(anew)


def test_a_run_that_is_killed_finds_a_job_that_is_listed_late_or_has_lost_its_tags(
    production: Deployment,
) -> None:
    untagged, late = day(16), day(15)
    kumo = production.gate.open_to
    before = len(kumo.jobs)
    kumo.faults.forget_tags(times=1)
    look = production.gate.hold(*LOOK, about=of_day(untagged), way="there", times=1)
    runs = [production.launch("one_in_process", untagged)]
    look.wait()
    kumo.faults.list_late(14)
    answer = production.gate.hold(*POST_JOB, about=of_day(late), times=1)
    runs.append(production.launch("one_in_process", late))
    answer.wait()
    for run_id in runs:
        kill(production, run_id)
    production.gate.release_all()

    last = [production.wait_for_end(run_id) for run_id in runs]

    assert [run.status for run in last] == [SUCCESS, SUCCESS]
    assert [run.parent_run_id for run in last] == runs
    jobs = [job["job_id"] for job in kumo.jobs[before:]]
    delivered = production.materialized("one", "predictions")
    assert [{id} for id in jobs] == [delivered[untagged], delivered[late]]


def test_what_four_processes_note_at_the_same_moment_all_survives(production: Deployment) -> None:
    days = [day(18), day(17)]
    steps = [f"step_{number}" for number in range(4)]
    answers = production.gate.hold(*POST_JOB)
    runs = {day: production.launch("four_multiprocess", day) for day in days}
    answers.wait(len(steps) * len(days))
    answers.release()

    last = {day: production.wait_for_end(run_id) for day, run_id in runs.items()}

    for step in steps:
        jobs = launched(production, step, *days)
        assert [len(ids) for ids in jobs.values()] == [1, 1]
        by_day = noted(production, step, "predictions")
        for partition, (job_id,) in jobs.items():
            assert by_day[partition] == {job_id}
            assert last[partition].tags[f"dagster-kumo/job.{step}__predictions"] == job_id
