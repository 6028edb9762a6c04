"""What a job that is done has to give."""

from __future__ import annotations

import json

import duckdb
import pyarrow.parquet as pq
import pytest

from dagster_kumo import (
    ArtifactExportJob,
    BatchPredictionJobResult,
    KumoAPIError,
    KumoClient,
    KumoDataError,
    KumoError,
    KumoJobFailedError,
    PredictionTable,
    PredictionTableJob,
    S3Connector,
    SnowflakeConnector,
)
from dagster_kumo.api.records import BatchPredictionRequest
from tests.api.scripted_server import Answer

SOON = {"poll_interval": 0.02}


def test_the_summary_counts_the_entities(result):
    assert result.summary().num_entities_predicted == result.predictions().num_rows == 23570


def test_the_summary_of_a_job_that_is_done_is_asked_for_once(kumo, result):
    for _ in range(3):
        result.summary()
        _ = result.tracking_url
    assert len([r for r in kumo.requests if r.path.endswith(result.id)]) == 1


def test_a_job_that_has_not_ended_has_no_summary(queued_job, busy_client):
    result = BatchPredictionJobResult(queued_job.id, busy_client)
    with pytest.raises(KumoJobFailedError, match="has no summary yet") as caught:
        result.summary()
    assert caught.value.status in ("NOT_STARTED", "QUEUED")
    queued_job.cancel()
    with pytest.raises(KumoJobFailedError, match="was cancelled"):
        result.summary()


def test_a_job_that_is_done_without_a_summary_is_told(server):
    job = {"job_id": "bp-1", "job_status_report": {"status": "DONE"}, "result": None}
    server.answer(Answer(json.dumps(job).encode()))
    result = BatchPredictionJobResult("bp-1", KumoClient(server.url, "acme:s3cr3t"))
    with pytest.raises(KumoError, match="no summary"):
        result.summary()


def test_the_tracking_url_opens_in_a_browser(kumo, result):
    assert result.tracking_url == f"{kumo.url.removesuffix('/api')}/jobs/{result.id}"


def test_the_handle_shows_its_id(result):
    assert repr(result) == f"BatchPredictionJobResult('{result.id}')"


# Frames ###################################################################################


def test_predictions_and_embeddings_as_frames(result):
    predictions, embeddings = result.predictions_df(), result.embeddings_df()
    assert list(predictions.columns) == [
        "ENTITY",
        "ANCHOR_TIMESTAMP",
        "TARGET_PRED",
        "False_PROB",
        "True_PROB",
    ]
    assert predictions["ENTITY"].is_unique
    assert len(predictions) == len(embeddings) == 23570
    assert set(embeddings["ENTITY"]) == set(predictions["ENTITY"])
    assert embeddings["EMBEDDING"].map(len).nunique() == 1


@pytest.mark.parametrize("output_type", ["predictions", "embeddings"])
def test_urls_are_one_for_each_file(result, output_type):
    urls = getattr(result, f"{output_type}_urls")()
    assert len(urls) == 3
    assert all(url.startswith("http://127.0.0.1") and "X-Amz-Signature" in url for url in urls)
    output = getattr(result, output_type)()
    assert (output.job_id, output.output_type) == (result.id, output_type)
    assert len(output) == 3


def test_embeddings_that_were_not_asked_for_are_a_data_error(launch):
    result = launch().result(**SOON)
    assert result.predictions().num_rows == 23570
    with pytest.raises(KumoDataError, match="embeddings of prediction job") as caught:
        result.embeddings()
    assert 'build_kumo_export_asset(output_type="embeddings"' in str(caught.value)


def test_a_server_that_keeps_no_embeddings_gets_the_way_round_it(kumo, result):
    kumo.faults.answer(404, path="get_embedding_df_urls$")
    with pytest.raises(KumoDataError, match="with a connector"):
        result.embeddings()


def test_a_job_that_is_not_done_has_no_predictions(queued_job, busy_client):
    with pytest.raises(KumoJobFailedError):
        BatchPredictionJobResult(queued_job.id, busy_client).predictions()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/part-0.parquet?sig=s1g",
        "memory://part-0.parquet",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://[::1/part-0.parquet?sig=s1g",
        "http://?sig=s1g",
        "",
    ],
)
def test_files_in_places_that_are_not_read_are_refused(server, url):
    job = {
        "job_id": "bp-1",
        "job_status_report": {"status": "DONE"},
        "result": {"num_entities_predicted": 1},
    }
    server.answer(
        Answer(json.dumps(job).encode()),
        Answer(json.dumps({"prediction_partitions": [url]}).encode()),
    )
    result = BatchPredictionJobResult("bp-1", KumoClient(server.url, "acme:s3cr3t"))
    with pytest.raises(KumoDataError, match="Export it with a connector") as caught:
        result.predictions()
    assert "s1g" not in str(caught.value)


# The prediction table #####################################################################


def test_the_prediction_table_of_a_job_that_is_done(result):
    table = result.prediction_table
    assert isinstance(table, PredictionTable)
    anchors = result.predictions_df()["ANCHOR_TIMESTAMP"]
    assert table.anchor_time is not None
    assert table.anchor_time.tzinfo is not None
    assert (anchors == table.anchor_time.replace(tzinfo=None)).all()
    assert len(table.data_urls()) == 1
    assert set(table.data_df()["ENTITY"]) == set(result.predictions_df()["ENTITY"])


def test_the_prediction_table_of_a_job_that_waits_for_it(busy_client, queued_job):
    table_job = busy_client.create_prediction_table_job(
        "pquery-cdnow-purchase", {"anchor_time": "inferred"}
    )
    request = BatchPredictionRequest(
        model_training_job_id="trainingjob-cdnow-purchase", pred_table_job_id=table_job
    )
    job_id, _ = busy_client.create_prediction_job(request)
    table = BatchPredictionJobResult(job_id, busy_client).prediction_table
    assert isinstance(table, PredictionTableJob)
    assert table.id == table_job
    with pytest.raises(KumoError, match="no prediction table job"):
        _ = BatchPredictionJobResult(queued_job.id, busy_client).prediction_table


# Exports ##################################################################################


def test_an_export_writes_every_row(kumo, client, result):
    export_id = result.export("predictions", SnowflakeConnector("wh"), "CHURN")
    assert isinstance(export_id, str)
    assert ArtifactExportJob(export_id, client).result(**SOON) == export_id
    export = next(e for e in kumo.exports if e["id"] == export_id)
    assert export["job_id"] == result.id
    assert export["output"]["table_name"] == "CHURN_predictions"
    assert export["output"]["write_mode"] == "OVERWRITE"
    with duckdb.connect(str(kumo.data / "exports" / "warehouses.duckdb"), read_only=True) as db:
        rows = db.execute('SELECT count(*) FROM "snowflake_wh"."CHURN_predictions"').fetchall()
    assert rows == [(23570,)]


def test_an_export_without_a_name_is_named_after_the_job(kumo, client, result):
    export_id = result.export(
        "embeddings", S3Connector("s3://b/out"), metadata_fields=["JOB_TIMESTAMP"]
    )
    ArtifactExportJob(export_id, client).result(**SOON)
    export = next(e for e in kumo.exports if e["id"] == export_id)
    assert export["output"]["file_path"] == f"s3://b/out/{result.id}_embeddings"
    assert export["output"]["extra_fields"] == ["JOB_TIMESTAMP"]
    written = pq.read_table(export["written_to"])
    assert written.num_rows == 23570
    assert "JOB_TIMESTAMP" in written.column_names


def test_an_export_of_an_unknown_job_is_refused(client):
    with pytest.raises(KumoAPIError, match="was not found"):
        BatchPredictionJobResult("bp-unknown", client).export(
            "predictions", S3Connector("s3://b/out")
        )
