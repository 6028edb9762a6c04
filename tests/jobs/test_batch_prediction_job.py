"""A prediction job's life, as its handle shows it."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

import pytest

from dagster_kumo import (
    BatchPredictionJob,
    KumoAPIError,
    KumoClient,
    KumoJobFailedError,
    KumoTimeoutError,
)
from dagster_kumo.api.records import BatchPredictionRequest
from dagster_kumo.local import LocalKumo
from tests.api.scripted_server import Answer

SOON = {"poll_interval": 0.02}
STATUS = r"/prediction_jobs/[^/]+$"


def test_a_job_goes_from_the_queue_to_its_result():
    with LocalKumo(queue_seconds=0.1, run_seconds=0.4) as kumo:
        client = KumoClient(kumo.url, kumo.api_key)
        request = BatchPredictionRequest(model_training_job_id="trainingjob-cdnow-purchase")
        job = BatchPredictionJob(client.create_prediction_job(request)[0], client)
        seen = []
        result = job.result(**SOON, on_status=lambda report: seen.append(report.status))
        progress = job.progress()
    assert [status for i, status in enumerate(seen) if status not in seen[:i]] == [
        "QUEUED",
        "RUNNING",
        "DONE",
    ]
    assert result.id == job.id
    assert progress.fraction == 1
    assert isinstance(progress.start_time, datetime)
    assert progress.elapsed_prediction_time > timedelta(0)


def test_a_job_in_the_queue_has_a_status_and_no_progress(queued_job):
    report = queued_job.status()
    assert report.status in ("NOT_STARTED", "QUEUED")
    assert not report.is_terminal
    assert report.stage == "Queued"
    assert queued_job.progress().fraction is None


def test_the_tracking_url_opens_in_a_browser(busy_kumo, queued_job):
    origin = busy_kumo.url.removesuffix("/api")
    assert queued_job.tracking_url == f"{origin}/jobs/{queued_job.id}"


def test_the_handle_shows_its_id(queued_job):
    assert repr(queued_job) == f"BatchPredictionJob('{queued_job.id}')"


def test_tags_are_set_and_removed(queued_job):
    assert queued_job.update_tags({"owner": "ana", "run": "1"}) is True
    assert queued_job.get().tags["owner"] == "ana"
    assert queued_job.update_tags({"owner": None}) is True
    assert "owner" not in queued_job.get().tags
    assert queued_job.get().tags["run"] == "1"


def test_jobs_are_found_by_their_tags(queued_job, busy_client):
    queued_job.update_tags({"needle": queued_job.id})
    found = busy_client.list_prediction_jobs({"needle": queued_job.id})
    assert [job.job_id for job in found] == [queued_job.id]


def test_a_cancelled_job_tells_so_and_has_no_result(queued_job):
    assert queued_job.cancel() is True
    assert queued_job.cancel() is False
    assert queued_job.wait(**SOON).status == "CANCELLED"
    with pytest.raises(KumoJobFailedError, match="was cancelled") as caught:
        queued_job.result(**SOON)
    assert caught.value.status == "CANCELLED"
    assert caught.value.job_id == queued_job.id
    assert queued_job.tracking_url in str(caught.value)


def test_a_failed_job_tells_why_and_where_to_look(kumo, launch):
    kumo.faults.fail_job("Column price is missing.", title="Schema")
    job = launch()
    assert job.wait(**SOON).status == "FAILED"
    with pytest.raises(KumoJobFailedError) as caught:
        job.result(**SOON)
    assert caught.value.status == "FAILED"
    assert caught.value.job_id == job.id
    assert caught.value.detail == "Schema: Column price is missing."
    assert caught.value.detail in str(caught.value)
    assert job.tracking_url in str(caught.value)


@pytest.mark.parametrize("timeout", [0, 0.1])
def test_after_the_timeout_the_job_goes_on(queued_job, timeout):
    with pytest.raises(KumoTimeoutError, match="has not been cancelled"):
        queued_job.result(**SOON, timeout=timeout)
    assert queued_job.status().status in ("NOT_STARTED", "QUEUED")


def test_a_job_that_ends_within_the_timeout_is_no_timeout(queued_job):
    looks = []

    def cancel_at_the_third_look(report) -> None:
        looks.append(report.status)
        if len(looks) == 3:
            queued_job.cancel()

    report = queued_job.wait(**SOON, timeout=60, on_status=cancel_at_the_third_look)
    assert (report.status, len(looks)) == ("CANCELLED", 4)


def test_an_unknown_status_is_waited_out_with_one_warning(kumo, client, done_job_id, caplog):
    kumo.faults.unknown_status("PAUSED", times=3)
    with caplog.at_level(logging.WARNING, "dagster_kumo"):
        report = BatchPredictionJob(done_job_id, client).wait(**SOON)
    assert report.status == "DONE"
    warnings = [record.message for record in caplog.records if record.name == "dagster_kumo"]
    assert len(warnings) == 1
    assert "PAUSED" in warnings[0]
    assert done_job_id in warnings[0]


def test_an_unknown_status_ends_with_the_timeout(kumo, client, done_job_id):
    kumo.faults.unknown_status("PAUSED", times=None)
    with pytest.raises(KumoTimeoutError, match=r"still PAUSED after 0\.1 s"):
        BatchPredictionJob(done_job_id, client).wait(**SOON, timeout=0.1)


@pytest.mark.parametrize("trouble", ["answer", "drop"])
def test_trouble_while_polling_neither_ends_nor_cancels_anything(
    kumo, client, done_job_id, trouble
):
    inject = getattr(kumo.faults, trouble)
    fault = inject(503, path=STATUS) if trouble == "answer" else inject(path=STATUS)
    assert BatchPredictionJob(done_job_id, client).wait(**SOON).status == "DONE"
    assert fault.hits == 1
    assert [request.method for request in kumo.requests] == ["GET"] * len(kumo.requests)


def test_trouble_that_stays_ends_the_wait_and_leaves_the_job(busy_kumo, queued_job):
    fault = busy_kumo.faults.answer(503, path=STATUS, times=None)
    with pytest.raises(KumoAPIError, match="after 2 attempts"):
        queued_job.wait(**SOON)
    fault.times = 0
    assert queued_job.status().status in ("NOT_STARTED", "QUEUED")
    assert not [request for request in busy_kumo.requests if "cancel" in request.path]


def test_looks_are_no_closer_together_than_the_interval_allows(server):
    report = b'{"job_id": "bp-1", "job_status_report": {"status": "%s"}}'
    server.answer(*[Answer(report % b"QUEUED")] * 4, Answer(report % b"DONE"))
    BatchPredictionJob("bp-1", KumoClient(server.url, "acme:s3cr3t")).wait(poll_interval=0.05)
    assert len(server.calls) == 5
    assert server.calls[-1].at - server.calls[0].at >= 4 * 0.05


def test_a_wait_can_be_interrupted(queued_job):
    class Interrupt(BaseException):
        pass

    def interrupt(_) -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        queued_job.wait(on_status=interrupt)
    assert queued_job.status().status in ("NOT_STARTED", "QUEUED")
