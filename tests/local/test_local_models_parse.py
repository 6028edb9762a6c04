"""Every JSON answer parses with the vendor's own models."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from kumoapi import data_snapshot, data_source, graph, jobs, source_table, table
from kumoapi.common import JobStatus, ValidationResponse
from kumoapi.json_serde import from_json, to_json_dict
from kumoapi.model_plan import PredictionTableGenerationPlan
from kumoapi.pquery import PQueryResource
from kumoapi.task import TaskType

QUERY = "pquery-cdnow-purchase"


@pytest.fixture(scope="module")
def api(steady_api):
    return steady_api


def test_prediction_jobs(api):
    request = jobs.BatchPredictionRequest(
        {"team": "a"},
        model_training_job_id="trainingjob-cdnow-purchase",
        predict_options=jobs.BatchPredictionOptions(num_workers=2),
        outputs=[
            jobs.LocalPredictionOutput(jobs.PredictionArtifactType.PREDICTIONS),
            jobs.S3PredictionOutput(jobs.PredictionArtifactType.EMBEDDINGS, "s3://bucket/e"),
        ],
        prediction_time=api.days_ago(3),
    )
    id, response = api.post("/prediction_jobs", to_json_dict(request))
    assert from_json(response, ValidationResponse).ok
    assert api.wait(id)
    job = from_json(api.get(f"/prediction_jobs/{id}"), jobs.BatchPredictionJobResource)
    assert job.config.prediction_time == request.prediction_time
    assert job.config.outputs == request.outputs
    assert job.job_status_report.status is JobStatus.DONE
    assert job.result == jobs.BatchPredictionJobSummary(23_570)
    listed = api.get("/prediction_jobs", team="a")
    assert [from_json(value, jobs.BatchPredictionJobResource) for value in listed] == [job]

    path = f"/prediction_jobs/{id}"
    progress = from_json(api.get(path + "/progress"), jobs.PredictionProgress)
    assert progress.elapsed_prediction_time > timedelta(0)
    urls = api.get(path + "/get_prediction_df_urls")
    assert len(from_json(urls, jobs.GetPredictionsDfUrlResponse).prediction_partitions) == 2
    urls = api.get(path + "/get_embedding_df_urls")
    assert len(from_json(urls, jobs.GetEmbeddingsDfUrlResponse).embedding_partitions) == 2
    cancelled = from_json(api.post(path + "/cancel"), jobs.CancelBatchPredictionJobResponse)
    assert not cancelled.is_cancelled

    _, refusal = api.try_launch("none")
    assert "none" in from_json(refusal, ValidationResponse).error_message()


def test_a_failed_job(api):
    id = api.launch(prediction_time="1999-01-01T00:00:00")
    job = from_json(api.wait(id), jobs.BatchPredictionJobResource)
    assert job.job_status_report.status is JobStatus.FAILED
    assert job.job_status_report.validation_response is not None
    assert "1999-01-01" in job.job_status_report.validation_response.message()
    path = f"/genpredtable_jobs/{job.config.pred_table_job_id}/get_errors"
    assert from_json(api.get(path), jobs.ErrorDetails).items[0].type is jobs.ErrorType.ERROR


def test_prediction_tables(api):
    plan = PredictionTableGenerationPlan(anchor_time=int(api.days_ago(9).timestamp()) * 10**9)
    request = jobs.GeneratePredictionTableRequest({}, QUERY, plan, None)
    id = api.post("/genpredtable_jobs", to_json_dict(request))["id"]
    value = api.wait(id, kind="genpredtable_jobs")
    job = from_json(value, jobs.GeneratePredictionTableJobResource)
    assert job.config.plan.anchor_time == plan.anchor_time
    path = f"/genpredtable_jobs/{id}/get_anchor_time"
    time = from_json(api.call("GET", path).text, datetime)
    assert time == api.days_ago(9)


def test_exports(api):
    output = jobs.BigQueryPredictionOutput(
        jobs.PredictionStorageType.BIGQUERY, jobs.PredictionArtifactType.PREDICTIONS, "bq", "t"
    )
    request = jobs.ArtifactExportRequest(api.run()["job_id"], prediction_output=output)
    answer = from_json(api.post("/artifact", to_json_dict(request)), jobs.ArtifactExportResponse)
    for call in (
        api.get(f"/artifact/{answer.job_id}"),
        api.post(f"/artifact/{answer.job_id}/cancel"),
    ):
        assert from_json(f'"{call}"', JobStatus) is JobStatus.DONE


def test_training_jobs(api):
    listed = [from_json(v, jobs.TrainingJobResource) for v in api.get("/training_jobs")]
    assert len(listed) == 6
    for job in listed:
        progress = api.get(f"/training_jobs/{job.job_id}/progress")
        assert from_json(progress, jobs.AutoTrainerProgress).total_trials == 1
        done = job.job_status_report.status is JobStatus.DONE
        assert done == (job.result is not None)
        if job.result is not None:
            assert job.result.eval_metrics.test_metrics
            assert job.result.total_elapsed_time == timedelta(minutes=42)
        query = from_json(api.get(f"/predictive_queries/{job.config.pquery_id}"), PQueryResource)
        assert query.query_string.startswith("PREDICT ")
        assert query.graph.tables["customers"].pkey == "customer_id"


def test_graphs_and_tables(api):
    definition = api.get(f"/predictive_queries/{QUERY}")["graph"]
    assert from_json(definition, graph.GraphDefinition)
    id = api.post("/graphs", definition)["id"]
    assert from_json(api.get(f"/graphs/{id}"), graph.GraphResource).id == id
    snapshot = api.call("POST", "/graphsnapshots", params={"graph_id": id}).json()["id"]
    resource = from_json(
        api.get(f"/graphsnapshots/{snapshot}"), data_snapshot.GraphSnapshotResource
    )
    assert set(resource.table_ids) == {"customers", "purchases"}
    for table_id in resource.table_ids.values():
        value = api.get(f"/tablesnapshots/{table_id}")
        assert from_json(value, data_snapshot.TableSnapshotResource).id == table_id
    health = api.get(f"/graphsnapshots/edge_health/{snapshot}")
    assert from_json(health, graph.EdgeHealthResponse).is_ready
    purchases = definition["tables"]["purchases"]
    id = api.post("/tables", purchases)["id"]
    assert from_json(api.get(f"/tables/{id}"), table.TableResource).table.time_col == "date"
    for path in ("/tables/validate", "/graphs/validate", "/predictive_queries/validate"):
        assert from_json(api.post(path, {}), ValidationResponse).ok
    asked = {"pquery_string": api.get(f"/predictive_queries/{QUERY}")["query_string"]}
    task = api.call("POST", "/predictive_queries/infer_task_type", params=asked).json()
    assert from_json(task, tuple[TaskType, str]) == (TaskType.BINARY_CLASSIFICATION, "temporal")


def test_source_tables(api):
    request = source_table.SourceTableDataRequest(
        source_table.S3SourceTableRequest("s3://cdnow", table_names=["purchases", "customers"]), 3
    )
    answers = api.post("/source_tables/get_table_data", to_json_dict(request))
    for answer in answers:
        response = from_json(answer, source_table.SourceTableDataResponse)
        assert response.cols
        assert response.sample_rows
    where = {"table_name": "purchases", "connector_id": None, "source_type": "S3"}
    valid = api.post("/source_tables/validate_table", where)
    assert from_json(valid, source_table.SourceTableValidateResponse).is_valid
    names = api.post("/source_tables/list_tables", where)
    assert from_json(names, source_table.SourceTableListResponse).table_names
    config = api.post("/source_tables/get_table_config", where)
    assert (
        from_json(config, source_table.SourceTableConfigResponse).source_table.table == "purchases"
    )


def test_connectors(api):
    config = data_source.SnowflakeConnectorResourceConfig("wh", "a", "w", "d", "s")
    secret = data_source.UsernamePassword("user", "hush")
    arguments = data_source.CreateConnectorArgs(config, secret)
    api.post("/connectors", to_json_dict(arguments, insecure=True))
    response = from_json(api.get("/connectors/wh"), data_source.ConnectorResponse)
    assert response.config == config
    listed = api.get("/connectors", data_source_type="SNOWFLAKE")
    assert [from_json(value, data_source.ConnectorResponse) for value in listed] == [response]
    assert api.get("/connectors", data_source_type="BIGQUERY") == []
    assert not any(b"hush" in path.read_bytes() for path in api.kumo.data.rglob("*.json"))
    assert api.call("DELETE", "/connectors/wh").ok
    assert api.call("GET", "/connectors/wh").status_code == 404
