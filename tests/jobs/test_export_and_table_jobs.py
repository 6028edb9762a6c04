"""Handles of exports and of prediction tables."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone

import pytest

from dagster_kumo import (
    ArtifactExportJob,
    KumoClient,
    KumoDataError,
    KumoJobFailedError,
    KumoTimeoutError,
    PredictionTable,
    PredictionTableJob,
)
from tests.api.scripted_server import Answer

SOON = {"poll_interval": 0.02}
KEY = "acme:s3cr3t"


@pytest.fixture
def export(server) -> ArtifactExportJob:
    """An export of the server that answers as told."""
    return ArtifactExportJob("export-1", KumoClient(server.url, KEY, request_max_retries=1))


def test_an_export_is_waited_for(server, export):
    server.answer(*map(Answer, (b'"NOT_STARTED"', b'"RUNNING"', b'"DONE"')))
    seen = []
    assert export.result(**SOON, on_status=lambda report: seen.append(report.status)) == "export-1"
    assert seen == ["NOT_STARTED", "RUNNING", "DONE"]
    assert export.status() == "DONE"
    assert {call.path for call in server.calls} == {"/api/v1/artifact/export-1"}


@pytest.mark.parametrize(
    ("status", "said"), [("FAILED", "gives no reason"), ("CANCELLED", "was cancelled")]
)
def test_an_export_that_ends_badly_is_told(server, export, status, said):
    server.answer(Answer(f'"{status}"'.encode()))
    with pytest.raises(KumoJobFailedError, match=said) as caught:
        export.result(**SOON)
    assert (caught.value.status, caught.value.job_id) == (status, "export-1")


def test_an_export_goes_on_after_the_timeout(server, export):
    server.answer(Answer(b'"RUNNING"'))
    with pytest.raises(KumoTimeoutError, match="Export job export-1 is still RUNNING"):
        export.result(**SOON, timeout=0.05)
    assert {call.method for call in server.calls} == {"GET"}


def test_an_export_with_an_unknown_status_is_waited_out(server, export, caplog):
    server.answer(*map(Answer, (b'"VERIFYING"', b'"VERIFYING"', b'"DONE"')))
    with caplog.at_level(logging.WARNING, "dagster_kumo"):
        export.result(**SOON)
    assert len([r for r in caplog.records if "VERIFYING" in r.message]) == 1


@pytest.mark.parametrize(("after", "cancelled"), [("CANCELLED", True), ("DONE", False)])
def test_an_export_can_be_cancelled(server, export, after, cancelled):
    server.answer(Answer(f'"{after}"'.encode()))
    assert export.cancel() is cancelled
    assert (server.calls[0].method, server.calls[0].path) == (
        "POST",
        "/api/v1/artifact/export-1/cancel",
    )


# Prediction tables ########################################################################


def test_a_prediction_table_is_generated_for_its_anchor_time(kumo, client):
    anchor = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    anchor -= timedelta(days=40)
    nanoseconds = int(anchor.timestamp()) * 10**9
    job_id = client.create_prediction_table_job(
        "pquery-cdnow-purchase", {"anchor_time": nanoseconds}, job_tags={"launch": "table-1"}
    )
    job = PredictionTableJob(job_id, client)
    table = job.result(**SOON)
    assert isinstance(table, PredictionTable)
    assert job.status().status == "DONE"
    assert table.anchor_time == anchor
    frame = table.data_df()
    assert (frame["ANCHOR_TIMESTAMP"] == anchor.replace(tzinfo=None)).all()
    assert [j.job_id for j in client.list_prediction_table_jobs({"launch": "table-1"})] == [job_id]
    assert kumo.requests[-1].path.endswith("/genpredtable_jobs")


def test_a_prediction_table_that_fails_tells_what_the_server_found(client):
    long_ago = int(datetime(1980, 1, 1, tzinfo=timezone.utc).timestamp()) * 10**9
    job_id = client.create_prediction_table_job("pquery-cdnow-purchase", {"anchor_time": long_ago})
    with pytest.raises(KumoJobFailedError, match=r"Anchor time too early: .*1980-01-01") as caught:
        PredictionTableJob(job_id, client).result(**SOON)
    assert (caught.value.status, caught.value.job_id) == ("FAILED", job_id)


def test_a_prediction_table_job_can_be_cancelled(busy_client):
    job_id = busy_client.create_prediction_table_job(
        "pquery-cdnow-purchase", {"anchor_time": "inferred"}
    )
    job = PredictionTableJob(job_id, busy_client)
    with pytest.raises(KumoTimeoutError):
        job.result(**SOON, timeout=0)
    job.cancel()
    with pytest.raises(KumoJobFailedError, match="was cancelled"):
        job.result(**SOON)


def test_a_table_of_ones_own_is_known_by_its_path(client, caplog):
    table = PredictionTable(client=client, table_data_path="s3://bucket/table.parquet")
    assert table.data_urls() == ["s3://bucket/table.parquet"]
    with caplog.at_level(logging.WARNING, "dagster_kumo"):
        assert table.anchor_time is None
    assert "does not know the anchor time" in caplog.text
    with pytest.raises(KumoDataError, match=r"table\.parquet"):
        table.data_df()
    with pytest.raises(ValueError, match="needs a client"):
        PredictionTable(table_data_path="s3://bucket/table.parquet").data_df()


@pytest.mark.parametrize(
    "arguments", [{}, {"job_id": "t-1", "table_data_path": "s3://b/t"}, {"job_id": "t-1"}]
)
def test_a_table_is_given_in_one_way(arguments):
    with pytest.raises(ValueError, match="prediction table"):
        PredictionTable(**arguments)
