"""How often a job is polled, and how soon its end is noticed."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest

from dagster_kumo import BatchPredictionJob, KumoClient
from dagster_kumo.api.records import BatchPredictionRequest, JobProgress
from dagster_kumo.jobs.waiting import POLL_INTERVAL, PollSchedule
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import Answer, Request

pytestmark = pytest.mark.fast

Estimate = Callable[[float, float], "float | None"]

ESTIMATES: dict[str, Estimate] = {
    "right": lambda length, waited: length - waited,
    "missing": lambda _length, _waited: None,
    "twice the truth": lambda length, waited: 2 * length - waited,
    "half the truth": lambda length, waited: length / 2 - waited,
    "beyond all measure": lambda _length, _waited: 1e12,
    "over from the start": lambda _length, _waited: 0.0,
}
estimates = pytest.mark.parametrize("estimate", ESTIMATES.values(), ids=ESTIMATES)


def simulated(
    length: float, estimate: Estimate, poll_interval: float = POLL_INTERVAL
) -> tuple[list[float], list[float]]:
    """When a job of so many seconds is polled, and when it is asked how far it is."""
    schedule, polls, asked = PollSchedule(poll_interval), [0.0], []
    while (now := polls[-1]) < length:
        if schedule.progress_is_due(now):
            asked.append(now)
            schedule.update(now, estimate(length, now))
        polls.append(now + schedule.pause(now))
    return polls, asked


@estimates
def test_a_job_of_two_hours_costs_few_calls(estimate):
    polls, asked = simulated(7200, estimate)
    assert len(polls) + len(asked) <= 150


@estimates
def test_the_end_of_a_short_job_is_noticed_soon(estimate):
    polls, _ = simulated(10, estimate)
    assert polls[-1] - 10 <= 2.4


@estimates
def test_no_end_is_noticed_later_than_the_longest_pause_allows(estimate):
    polls, _ = simulated(3600, estimate, poll_interval=30)
    assert max(later - sooner for sooner, later in pairwise(polls)) <= 30.001


def test_a_right_estimate_saves_calls_and_time():
    blind, _ = simulated(600, ESTIMATES["missing"])
    polls, asked = simulated(600, ESTIMATES["right"])
    assert len(polls) + len(asked) < len(blind)
    assert polls[-1] - 600 < 20


def test_a_long_job_is_asked_how_far_it_is_at_about_each_tenth():
    _, asked = simulated(3600, ESTIMATES["right"])
    tenths = {int(at / 360) for at in asked}
    assert len(tenths) >= 6  # the last ones lie further apart


def test_jobs_that_were_launched_together_are_not_looked_at_together():
    last = sorted(simulated(3600, ESTIMATES["right"])[0][-2] for _ in range(200))
    crowds = [sum(at <= other < at + 1 for other in last) for at in last]
    assert max(crowds) <= 30


@pytest.mark.parametrize(
    ("progress", "remaining"),
    [
        ({"elapsed_prediction_time": "PT20S", "estimated_prediction_time": "PT1M"}, 40),
        ({"elapsed_prediction_time": "PT2M", "estimated_prediction_time": "PT1M"}, 0),
        (
            {
                "elapsed_prediction_time": "PT30S",
                "total_iterations": 100,
                "completed_iterations": 25,
            },
            90,
        ),
        ({"elapsed_prediction_time": "PT30S", "total_iterations": 100}, None),
        ({}, None),
    ],
)
def test_what_is_left_is_told_by_the_estimate_or_by_what_is_done(progress, remaining):
    assert JobProgress(**progress).remaining == remaining


@pytest.mark.slow
def test_a_real_job_is_noticed_with_few_calls():
    with LocalKumo(queue_seconds=0.1, run_seconds=2) as kumo:
        client = KumoClient(kumo.url, kumo.api_key)
        request = BatchPredictionRequest(model_training_job_id="trainingjob-cdnow-purchase")
        job = BatchPredictionJob(client.create_prediction_job(request)[0], client)
        kumo.clear_requests()
        heard: list[JobProgress] = []
        assert job.wait(on_progress=heard.append).status == "DONE"
        assert len(kumo.requests) <= 12
    assert heard
    assert all(progress.remaining <= 2 for progress in heard)


@pytest.mark.parametrize("answer", [Answer(status=503), Answer(status=404), Answer(b"so-so")])
def test_progress_that_fails_is_asked_once_in_a_while_and_does_no_harm(server, answer):
    statuses = iter(["RUNNING"] * 15)

    def answer_by(request: Request) -> Answer:
        if request.path.endswith("/progress"):
            return answer
        report = {"status": next(statuses, "DONE")}
        return Answer(json.dumps({"job_id": "bp-1", "job_status_report": report}).encode())

    server.answer_by(answer_by)
    client = KumoClient(server.url, "acme:s3cr3t")
    report = BatchPredictionJob("bp-1", client).wait(poll_interval=0.02)
    assert report.status == "DONE"
    asked = [request for request in server.calls if request.path.endswith("/progress")]
    span = server.calls[-1].at - server.calls[0].at
    assert 1 <= len(asked) <= 1 + span / 0.5
