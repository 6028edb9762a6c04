"""Exports land where a person can look."""

from __future__ import annotations

import duckdb
import pandas as pd
import pytest

ROWS = 23_570


# Each test writes to a place of its own, so all of them can share one stand-in and one job.
@pytest.fixture(scope="module")
def api(steady_api):
    return steady_api


@pytest.fixture(scope="module")
def job(api):
    kinds = ("PREDICTIONS", "EMBEDDINGS")
    outputs = [{"artifact_type": kind, "storage_type": "LOCAL"} for kind in kinds]
    return api.run(outputs=outputs)["job_id"]


def export(api, job, **output):
    body = {
        "job_id": job,
        "prediction_output": {"artifact_type": "PREDICTIONS", "extra_fields": []} | output,
        "training_table_output": None,
        "model_output": None,
    }
    id = api.post("/artifact", body)["job_id"]
    return id, api.get(f"/artifact/{id}")


def rows_of(api, name):
    with duckdb.connect(
        str(api.kumo.data / "exports/warehouses.duckdb"), read_only=True
    ) as connection:
        return connection.execute(f"SELECT * FROM {name}").df()


@pytest.mark.parametrize("storage", ["SNOWFLAKE", "BIGQUERY"])
def test_a_warehouse(api, job, storage):
    target = {"storage_type": storage, "connector_id": "wh", "table_name": "CHURN_predictions"}
    name = f'"{storage.lower()}_wh"."CHURN_predictions"'
    id, status = export(api, job, **target, write_mode="APPEND", extra_fields=["JOB_TIMESTAMP"])
    assert status == "DONE"
    assert api.kumo.exports[-1]["id"] == id
    assert api.kumo.exports[-1]["written_to"].endswith(name)
    export(api, job, **target, write_mode="APPEND", extra_fields=["JOB_TIMESTAMP"])
    frame = rows_of(api, name)
    assert len(frame) == 2 * ROWS
    assert frame["JOB_TIMESTAMP"].nunique() == 1
    # A table of other columns takes no rows, and stays.
    _, status = export(
        api, job, **target, write_mode="APPEND", extra_fields=[], artifact_type="EMBEDDINGS"
    )
    assert status == "FAILED"
    assert len(rows_of(api, name)) == 2 * ROWS
    export(api, job, **target, write_mode="OVERWRITE")
    frame = rows_of(api, name)
    assert len(frame) == ROWS
    assert "JOB_TIMESTAMP" not in frame


def test_databricks(api, job):
    target = {"storage_type": "DATABRICKS", "connector_id": "dbx"}
    assert export(api, job, **target, table_name="gold__kumo__churn_predictions")[1] == "DONE"
    assert len(rows_of(api, '"databricks_dbx"."gold.churn_predictions"')) == ROWS


def test_embeddings_with_the_anchor(api, job):
    _, status = export(
        api,
        job,
        storage_type="SNOWFLAKE",
        artifact_type="EMBEDDINGS",
        connector_id="wh",
        table_name="E",
        extra_fields=["ANCHOR_TIMESTAMP"],
    )
    assert status == "DONE"
    assert list(rows_of(api, '"snowflake_wh"."E"')) == ["ENTITY", "EMBEDDING", "ANCHOR_TIMESTAMP"]


@pytest.mark.parametrize("name", ['x"; DROP TABLE kept; --', "a.b", "ünicode and spaces", "select"])
def test_names_are_only_names(api, job, name):
    target = {"storage_type": "SNOWFLAKE", "connector_id": "wh"}
    export(api, job, **target, table_name="kept")
    assert export(api, job, **target, table_name=name)[1] == "DONE"
    quoted = name.replace('"', '""')
    assert len(rows_of(api, f'"snowflake_wh"."{quoted}"')) == ROWS
    assert len(rows_of(api, '"snowflake_wh"."kept"')) == ROWS


@pytest.mark.parametrize(
    ("storage", "uri", "folder"),
    [
        ("S3", "s3://bucket/dir/CHURN_predictions", "s3/bucket/dir/CHURN_predictions"),
        ("GCS", "gs://bucket/CHURN", "gcs/bucket/CHURN"),
        ("ADLS", "abfss://box@account.dfs/CHURN", "adls/box@account.dfs/CHURN"),
    ],
)
def test_a_bucket(api, job, storage, uri, folder):
    target = {"storage_type": storage, "file_path": uri, "connector_id": None}
    assert export(api, job, **target)[1] == "DONE"
    assert export(api, job, **target)[1] == "DONE"
    frame = pd.read_parquet(api.kumo.data / "exports" / folder)
    assert len(frame) == ROWS


@pytest.mark.parametrize(
    "output",
    [
        {"storage_type": "S3", "file_path": "s3://bucket/../../etc"},
        {"storage_type": "S3", "file_path": "s3://../x"},
        {"storage_type": "S3", "file_path": "gs://bucket/x"},
        {"storage_type": "S3", "file_path": "/etc"},
        {"storage_type": "S3", "file_path": "s3://bucket/a\\..\\b"},
        {"storage_type": "SNOWFLAKE", "connector_id": "wh", "table_name": ""},
        {"storage_type": "SNOWFLAKE", "connector_id": None, "table_name": "t"},
        {"storage_type": "SNOWFLAKE", "connector_id": "a", "table_name": "t", "write_mode": "X"},
        {"storage_type": "TAPE"},
        {"storage_type": "LOCAL"},
        {"storage_type": "S3", "file_path": "s3://a/b", "artifact_type": "PICTURES"},
        {"storage_type": "S3", "file_path": "s3://a/b", "extra_fields": ["MOON_PHASE"]},
    ],
)
def test_refused_targets(api, job, output):
    body = {"job_id": job, "prediction_output": {"artifact_type": "PREDICTIONS"} | output}
    before = api.kumo.exports
    answer = api.call("POST", "/artifact", json=body)
    assert answer.status_code == 400
    assert answer.json()["detail"]
    assert api.kumo.exports == before


def test_nothing_to_export(api, slow_api):
    target = {"artifact_type": "EMBEDDINGS", "storage_type": "S3", "file_path": "s3://a/b"}

    def status(api, job):
        body = {"job_id": job, "prediction_output": target}
        return api.call("POST", "/artifact", json=body).status_code

    assert status(api, "bp-job-none") == 404
    assert status(api, api.run()["job_id"]) == 400
    assert status(slow_api, slow_api.launch()) == 409


def test_outputs_of_a_launch_are_written_when_it_is_done(api):
    output = {
        "artifact_type": "PREDICTIONS",
        "storage_type": "S3",
        "file_path": "s3://bucket/at_launch",
        "extra_fields": ["JOB_TIMESTAMP"],
    }
    api.run(outputs=[output], predict_options={"num_workers": 2})
    files = sorted((api.kumo.data / "exports/s3/bucket/at_launch").iterdir())
    assert len(files) == 2
    assert "JOB_TIMESTAMP" in pd.read_parquet(files[0])


def test_cancel_an_export(slow_api):
    job = slow_api.run()["job_id"]
    id, status = export(slow_api, job, storage_type="S3", file_path="s3://bucket/x")
    assert status in ("NOT_STARTED", "QUEUED")
    assert slow_api.post(f"/artifact/{id}/cancel") == "CANCELLED"
    assert not (slow_api.kumo.data / "exports").exists()
