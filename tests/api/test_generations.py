"""Which generation of the API a server speaks, and what differs between the two."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests

from dagster_kumo import (
    ADLSConnector,
    ArtifactExportJob,
    BatchPrediction,
    BatchPredictionJob,
    BatchPredictionJobResult,
    BigQueryConnector,
    DatabricksConnector,
    GCSConnector,
    KumoAPIError,
    KumoAuthenticationError,
    KumoClient,
    KumoConnectionError,
    KumoError,
    KumoJobFailedError,
    KumoResource,
    S3Connector,
    SnowflakeConnector,
    build_kumo_assets_definitions,
    build_kumo_sensor,
)
from dagster_kumo.api.connectors import kept_by_kumo, prediction_output
from dagster_kumo.local import LocalKumo
from dagster_kumo.local.http.wire import RecordedRequest
from tests.api.scripted_server import Answer, ScriptedServer
from tests.components.sandbox import batch_prediction, project
from tests.support import PURCHASE
from tests.support import resources as support_resources

KEY = "acme:s3cr3t"
DEFAULT = {"id": "default", "slug": "default", "display_name": "Default", "group_id": "default"}


@pytest.fixture(scope="module")
def third() -> Iterator[LocalKumo]:
    with LocalKumo(api="3") as kumo:
        yield kumo


@pytest.fixture
def kumo3(third: LocalKumo) -> LocalKumo:
    third.faults.clear()
    third.clear_requests()
    return third


@pytest.fixture
def client3(kumo3: LocalKumo) -> KumoClient:
    return KumoClient(kumo3.url, kumo3.api_key, request_max_retries=2)


@pytest.fixture(scope="module")
def done3(third: LocalKumo) -> str:
    """A job of 3.0 that is done."""
    client = KumoClient(third.url, third.api_key)
    return launch(client).result(poll_interval=0.05).id


@pytest.fixture
def result3(done3: str, client3: KumoClient) -> BatchPredictionJobResult:
    return BatchPredictionJobResult(done3, client3)


def launch(client: KumoClient, **options: Any) -> BatchPredictionJob:
    prediction = BatchPrediction(training_job_id=PURCHASE, **options)
    request = prediction.request(training_job_id=PURCHASE, outputs=prediction.outputs)
    return BatchPredictionJob(client.create_prediction_job(request)[0], client)


def sent(kumo: LocalKumo, path: str) -> list[RecordedRequest]:
    return [r for r in kumo.requests if (r.method, r.path) == ("POST", f"/api/v1{path}")]


# Which one #################################################################################


def speaking(
    authentication: Answer, project: Answer, project_list: Answer | None = None
) -> Callable[..., Answer]:
    answers = {
        "/api/v1/authentication": authentication,
        "/api/v1/projects/default": project,
        "/api/v1/projects": project_list or Answer(b"{}", 404),
        "/api/config": Answer(b"{}"),
    }
    return lambda request: answers.get(request.path, Answer(b"[]"))


PROJECT = Answer(json.dumps(DEFAULT).encode())


@pytest.mark.parametrize(
    ("authentication", "project", "version"),
    [
        (Answer(b"{}"), PROJECT, "3.0"),
        (Answer(b"", 204), PROJECT, "3.0"),
        (Answer(b"hello"), PROJECT, "3.0"),
        (Answer(b"{}", 404), PROJECT, "2.x"),
        (Answer(b"", 405), PROJECT, "2.x"),
        (Answer(b"<html>"), Answer(b"<html>"), "2.x"),
        (Answer(b"<html>"), Answer(b"{}", 404), "2.x"),
        (Answer(b"{}"), Answer(b"{}"), "2.x"),
    ],
)
def test_the_generation_is_read_off_two_answers(
    server: ScriptedServer, authentication: Answer, project: Answer, version: str
) -> None:
    server.answer_to_everything(speaking(authentication, project))
    assert KumoClient(server.url, KEY).generation.version == version


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_an_error_that_may_pass_is_no_verdict(server: ScriptedServer, status: int) -> None:
    said = [Answer(b"busy", status)]
    answer = speaking(Answer(b"{}"), PROJECT)
    server.answer_to_everything(
        lambda request: said[0] if said and "authentication" in request.path else answer(request)
    )
    client = KumoClient(server.url, KEY, request_max_retries=0)
    with pytest.raises(KumoAPIError, match=f"authentication answered {status}"):
        client.check()
    said.clear()
    assert client.generation.version == "3.0"


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_the_same_error_as_ever(server: ScriptedServer, status: int) -> None:
    server.answer_to_everything(speaking(Answer(b'{"detail": "no"}', status), PROJECT))
    with pytest.raises(KumoAuthenticationError, match="KUMO_API_KEY"):
        KumoClient(server.url, KEY).check()
    assert len(server.requests) == 1


def test_the_verdict_is_asked_for_once(kumo3: LocalKumo, client3: KumoClient) -> None:
    for _ in range(3):
        client3.list_prediction_jobs()
    paths = [request.path.removeprefix("/api/v1/") for request in kumo3.requests]
    assert paths == ["authentication", "projects/default"] + ["prediction_jobs"] * 3


# Projects ##################################################################################


@pytest.mark.parametrize(
    ("scope", "project"),
    [
        ({}, "Default"),
        ({"project": "default"}, "Default"),
        ({"project": "churn"}, "Churn"),
        ({"project": " \uff23hurn "}, "Churn"),
        ({"project": "Spend", "group": "Analytics"}, "Spend"),
        ({"group": "Default"}, "Default"),
    ],
)
def test_a_project_goes_by_id_slug_or_name(
    kumo3: LocalKumo, scope: dict[str, str], project: str
) -> None:
    client = KumoClient(kumo3.url, kumo3.api_key, **scope)
    client.list_prediction_jobs()
    ids = {
        p.display_name: p.id for g in client.list_groups() or [] for p in client.list_projects(g.id)
    }
    (asked,) = [r for r in kumo3.requests if r.path.endswith("/prediction_jobs")]
    assert asked.query == {"limit": "100", "project_id": ids[project]}
    assert KumoClient(kumo3.url, kumo3.api_key, project=ids[project]).generation.scope() == {
        "project_id": ids[project]
    }


@pytest.mark.parametrize(
    ("scope", "said"),
    [
        ({"project": "nowhere"}, "no project 'nowhere'; there are: Default, Churn, Spend"),
        ({"group": "Sales"}, "no group 'Sales'; there are: Default, Analytics"),
        ({"group": "Analytics"}, "not clear which project is meant. There are: Churn, Spend"),
        ({"group": "Default", "project": "Churn"}, "no project 'Churn'; there are: Default"),
    ],
)
def test_a_scope_that_is_not_there_is_refused_with_those_that_are(
    kumo3: LocalKumo, scope: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        KumoClient(kumo3.url, kumo3.api_key, **scope).check()


def test_a_name_that_two_projects_answer_to_is_refused(server: ScriptedServer) -> None:
    both = [{**DEFAULT, "id": "p-1", "slug": "churn"}, {**DEFAULT, "display_name": "Churn"}]
    server.answer_to_everything(speaking(Answer(b"{}"), PROJECT, Answer(json.dumps(both).encode())))
    with pytest.raises(ValueError, match="by its id: p-1, default"):
        KumoClient(server.url, KEY, project="churn").check()


def test_without_a_default_project_one_has_to_be_named(server: ScriptedServer) -> None:
    there = json.dumps([{**DEFAULT, "id": "p-1", "display_name": "Churn"}]).encode()
    server.answer_to_everything(speaking(Answer(b"{}"), Answer(b"{}", 404), Answer(there)))
    with pytest.raises(ValueError, match=r"There are: Churn\. Name one with project="):
        KumoClient(server.url, KEY).check()


def test_a_job_of_another_project_is_not_there(kumo3: LocalKumo, client3: KumoClient) -> None:
    job = launch(KumoClient(kumo3.url, kumo3.api_key, project="churn"))
    assert job.status().status
    with pytest.raises(KumoAPIError, match="404"):
        client3.get_prediction_job(job.id)


# Launches ##################################################################################


def test_a_launch_names_what_it_wants_and_nothing_else(
    kumo3: LocalKumo, client3: KumoClient
) -> None:
    job = launch(client3)
    (request,) = sent(kumo3, "/prediction_jobs")
    assert request.json == {
        "job_tags": {},
        "model_training_job_id": PURCHASE,
        "predict_options": {"num_workers": 1},
        "outputs": [{"artifact_type": "PREDICTIONS", "storage_type": "LOCAL", "extra_fields": []}],
        "explanations": False,
    }
    assert request.query == {"project_id": "default"}
    assert job.result(poll_interval=0.05).summary().num_entities_predicted == 23_570


def test_embeddings_alone_have_no_summary_and_are_read_all_the_same(client3: KumoClient) -> None:
    prediction = BatchPrediction(training_job_id=PURCHASE, outputs=["embeddings"])
    request = prediction.request(training_job_id=PURCHASE, outputs=["embeddings"])
    request = request.model_copy(update={"outputs": [kept_by_kumo("embeddings")]})
    job_id, _ = client3.create_prediction_job(request)
    result = BatchPredictionJob(job_id, client3).result(poll_interval=0.05)
    with pytest.raises(KumoError, match="no summary"):
        result.summary()
    assert result.embeddings().num_rows == 23_570


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("dbfs:/Volumes/c/s/v/x", "from S3, GCS or ADLS only"),
        ("s3://bucket//x", "no empty part"),
    ],
)
def test_an_own_table_that_3_0_cannot_read_is_refused_before_the_launch(
    kumo3: LocalKumo, client3: KumoClient, path: str, said: str
) -> None:
    with pytest.raises(KumoError, match=said):
        launch(client3, prediction_table_path=path)
    assert not sent(kumo3, "/prediction_jobs")


def own_table_of(kumo: LocalKumo, bucket: str) -> str:
    """A prediction table of one's own for three customers, where the stand-in looks for it."""
    path = kumo.data / "exports" / "s3" / bucket / "entities" / "part.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"ENTITY": [1, 2, 3]}), path)
    return f"s3://{bucket}/entities"


def test_an_own_table_is_read_through_a_connector_and_shown_by_the_job(
    kumo3: LocalKumo, client3: KumoClient
) -> None:
    path = own_table_of(kumo3, "own-tables")
    make_connector(client3, "tables", {"mode": "rooted", "bucket": "own-tables"})
    job = launch(client3, prediction_table_path=path)
    assert job.result(poll_interval=0.05).summary().num_entities_predicted == 3
    (request,) = sent(kumo3, "/prediction_jobs")
    source = request.json["pred_table_source"]
    assert source["source"] == {"mode": "relative", "path": "entities"}
    assert job.get().config.pred_table_source == source


@pytest.mark.parametrize(
    ("path", "is_recorded"),
    [("s3://own-jobs/entities", True), ("s3://elsewhere/x", False), ("dbfs:/Volumes/c/x", False)],
)
def test_the_sensor_records_a_job_for_the_own_table_that_it_is_asked_about(
    kumo3: LocalKumo, client3: KumoClient, path: str, is_recorded: bool
) -> None:
    used = own_table_of(kumo3, "own-jobs")
    assets = build_kumo_assets_definitions(
        name="mine",
        prediction=BatchPrediction(training_job_id=PURCHASE, prediction_table_path=path),
    )
    sensor = build_kumo_sensor([assets.predictions], lookback=timedelta(0))
    resource = KumoResource(url=kumo3.url, api_key=kumo3.api_key)
    with dg.DagsterInstance.ephemeral() as instance:

        def tick(cursor: str | None) -> Any:
            context = dg.build_sensor_context(
                instance=instance, cursor=cursor, resources={"kumo": resource}
            )
            return sensor.evaluate_tick(context)

        cursor = tick(None).cursor
        launch(client3, prediction_table_path=used).result(poll_interval=0.05)
        assert len(tick(cursor).asset_events) == int(is_recorded)


# Exports ###################################################################################


def make_connector(client: KumoClient, name: str, target: dict[str, Any]) -> str:
    made = client._api.call(
        "POST",
        f"{client.url}/v1/projects/default/connectors",
        body={"name": name, "config": {"type": "s3", "target": target}},
    )
    return made["id"]


@pytest.mark.parametrize(
    ("connector", "table", "field", "value"),
    [
        (SnowflakeConnector(" WAREHOUSE"), "T", "table_name", "T_predictions"),
        (BigQueryConnector("analytics"), "T", "table_name", "T_predictions"),
        (DatabricksConnector("lakehouse"), ("s", "t"), "table_name", "s__kumo__t_predictions"),
        (S3Connector("s3://company/out"), "a b", "file_path", "s3://company/out/a%20b_predictions"),
        (GCSConnector("gcs://company/out"), "T", "file_path", "gs://company/out/T_predictions"),
        (
            ADLSConnector("abfs://con@account.dfs.core.windows.net/o"),
            "T",
            "file_path",
            "abfss://con@account.dfs.core.windows.net/o/T_predictions",
        ),
        (
            S3Connector("s3://company"),
            "t.parquet",
            "file_path",
            "s3://company/t_predictions.parquet",
        ),
        (
            S3Connector("s3://company", connector_id="any-s3"),
            "T",
            "file_path",
            "s3://company/T_predictions",
        ),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else None,
)
def test_an_export_names_its_connector_by_id_and_its_place_as_3_0_takes_it(
    kumo3: LocalKumo,
    result3: BatchPredictionJobResult,
    client3: KumoClient,
    connector: Any,
    table: Any,
    field: str,
    value: str,
) -> None:
    export = ArtifactExportJob(result3.export("predictions", connector, table), client3)
    export.result(poll_interval=0.05)
    (request,) = sent(kumo3, "/artifact")
    assert sorted(request.json) == ["job_id", "prediction_output", "request_id"]
    assert str(uuid.UUID(request.json["request_id"])) == request.json["request_id"]
    output = request.json["prediction_output"]
    assert output["connector_id"].startswith("connector_")
    assert output[field] == value


def test_the_connector_with_the_longest_root_is_taken_and_told_the_path_below_it(
    kumo3: LocalKumo, result3: BatchPredictionJobResult, client3: KumoClient
) -> None:
    make_connector(client3, "bucket", {"mode": "rooted", "bucket": "rooted"})
    folder = make_connector(
        client3, "folder", {"mode": "rooted", "bucket": "rooted", "prefix": "kumo"}
    )
    for root in ("s3://rooted/kumo", "s3://rooted/kumonaut"):
        export = result3.export("predictions", S3Connector(root), "day/{PARTITION}")
        ArtifactExportJob(export, client3).result(poll_interval=0.05)
    below, beside = (r.json["prediction_output"] for r in sent(kumo3, "/artifact"))
    assert (below["connector_id"], below["file_path"]) == (folder, "day/{PARTITION}_predictions")
    assert beside["file_path"] == "kumonaut/day/{PARTITION}_predictions"
    assert kumo3.exports[-2]["output"]["file_path"].startswith("s3://rooted/kumo/day/")


def test_a_component_exports_on_3_0_and_names_what_is_written_in_full(
    third: LocalKumo, tmp_path: Path
) -> None:
    yaml = """
    pool: kumo
    exports:
      - {connector: {type: snowflake, name: warehouse}, table_name: CHURN}
      - {connector: {type: bigquery, name: analytics}, table_name: churn}
      - {connector: {type: databricks, name: lakehouse}, table_name: [ml, churn]}
      - {connector: {type: s3, root_dir: "s3://company/kumo"}, table_name: churn.parquet}
    checks: [{}]
    """
    prediction = f"{{training_job_id: {PURCHASE}}}"
    mine = support_resources(third, tmp_path)
    with project(batch_prediction(yaml, prediction=prediction), resources=mine) as (_, defs, _):
        run = defs.resolve_implicit_global_asset_job_def().execute_in_process()
    assert run.success
    written = {
        event.asset_key.path[-1]: value.value
        for event in run.get_asset_materialization_events()
        for name, value in event.materialization.metadata.items()
        if name in ("dagster/table_name", "dagster/uri")
    }
    assert written == {
        "predictions_in_snowflake": "STANDIN.PUBLIC.CHURN_predictions",
        "predictions_in_bigquery": "stand-in-project.predictions.churn_predictions",
        "predictions_in_databricks": "main.ml.churn_predictions",
        "predictions_in_s3": "s3://company/kumo/churn_predictions.parquet",
    }
    assert all(check.passed for check in run.get_asset_check_evaluations())


@pytest.mark.parametrize(
    ("connector", "table", "said"),
    [
        (
            SnowflakeConnector("nowhere"),
            "T",
            "no connector to SNOWFLAKE called 'nowhere'; there are: warehouse",
        ),
        (SnowflakeConnector("lakehouse"), "T", "no connector to SNOWFLAKE"),
        (S3Connector("s3://b/o", connector_id="warehouse"), "T", "no connector to S3 called"),
        (S3Connector("s3://company"), "{PARTITION}", "needs a connector with a root"),
        (S3Connector("s3://company/a//b"), "T", "no empty part"),
        (S3Connector("s3://company"), "a%41", "not percent-encoded"),
    ],
)
def test_a_target_that_no_connector_reaches_is_refused_before_anything_is_sent(
    kumo3: LocalKumo, result3: BatchPredictionJobResult, connector: Any, table: str, said: str
) -> None:
    with pytest.raises(KumoError, match=said):
        result3.export("predictions", connector, table)
    assert not sent(kumo3, "/artifact")


def test_an_export_whose_answer_is_lost_is_sent_again_and_written_once(
    kumo3: LocalKumo, result3: BatchPredictionJobResult, client3: KumoClient
) -> None:
    kumo3.faults.lose_answer(path="/artifact$", method="POST", times=2)
    before = len(kumo3.exports)
    export = result3.export(
        "predictions", SnowflakeConnector("warehouse"), "LOST", write_mode="APPEND"
    )
    ArtifactExportJob(export, client3).result(poll_interval=0.05)
    requests = sent(kumo3, "/artifact")
    assert len(requests) == 3
    assert all(request.json == requests[0].json for request in requests)
    assert len(kumo3.exports) == before + 1


def test_on_2_x_an_export_is_sent_once(kumo: LocalKumo, result: BatchPredictionJobResult) -> None:
    kumo.faults.lose_answer(path="/artifact$", method="POST", times=2)
    with pytest.raises(KumoConnectionError):
        result.export("predictions", SnowflakeConnector("warehouse"), "LOST", write_mode="APPEND")
    assert len(sent(kumo, "/artifact")) == 1


def test_databricks_appends_on_3_0_only(
    kumo3: LocalKumo,
    kumo: LocalKumo,
    result: BatchPredictionJobResult,
    result3: BatchPredictionJobResult,
) -> None:
    target = (DatabricksConnector("lakehouse"), ("s", "t"))
    result3.export("predictions", *target, write_mode="APPEND")
    assert sent(kumo3, "/artifact")[0].json["prediction_output"]["write_mode"] == "APPEND"
    with pytest.raises(KumoError, match=r"SDK 2\.x, which always overwrites"):
        result.export("predictions", *target, write_mode="APPEND")
    assert not sent(kumo, "/artifact")


def test_an_export_that_the_service_has_forgotten_has_ended(
    kumo3: LocalKumo, client3: KumoClient
) -> None:
    kumo3.faults.answer(200, body=b'"MISSING"', path="/artifact/export-1$", times=None)
    with pytest.raises(KumoJobFailedError, match="has forgotten it") as caught:
        ArtifactExportJob("export-1", client3).result()
    assert caught.value.status == "MISSING"


# 2.x ########################################################################################


def test_a_launch_on_2_x_is_as_it_was_but_for_nulls(kumo: LocalKumo, client: KumoClient) -> None:
    launch(client, num_workers=2, binary_classification_threshold=0.25)
    (request,) = sent(kumo, "/prediction_jobs")
    assert request.query == {}
    assert request.json == {
        "job_tags": {},
        "model_training_job_id": PURCHASE,
        "predict_options": {"binary_classification_threshold": 0.25, "num_workers": 2},
        "outputs": [],
        "explanations": False,
    }


@pytest.mark.parametrize(
    ("connector", "table", "place"),
    [
        (SnowflakeConnector("wh"), "T", {"connector_id": "wh", "table_name": "T_predictions", "write_mode": "OVERWRITE"}),
        (BigQueryConnector("bq"), "T", {"connector_id": "bq", "table_name": "T_predictions", "write_mode": "OVERWRITE"}),
        (DatabricksConnector("db"), ("s", "t"), {"connector_id": "db", "table_name": "s__kumo__t_predictions"}),
        (S3Connector("s3://b/a b"), "t.csv", {"file_path": "s3://b/a b/t.csv_predictions"}),
        (GCSConnector("gcs://b/{PARTITION}"), "T", {"file_path": "gcs://b/{PARTITION}/T_predictions"}),
        (S3Connector("s3://b", connector_id="c"), "T", {"file_path": "s3://b/T_predictions", "connector_id": "c"}),
    ],
)  # fmt: skip
def test_an_export_on_2_x_is_as_it_was_but_for_nulls_and_its_id(
    kumo: LocalKumo, result: BatchPredictionJobResult, connector: Any, table: Any, place: Any
) -> None:
    kumo.faults.answer(200, body={"job_id": "export-1"}, path="/artifact$")
    result.export("predictions", connector, table)
    (request,) = sent(kumo, "/artifact")
    assert uuid.UUID(request.json.pop("request_id"))
    assert request.json == {
        "job_id": result.id,
        "prediction_output": {
            "artifact_type": "PREDICTIONS",
            "storage_type": connector.storage.upper(),
            "extra_fields": [],
            **place,
        },
    }


# Keys ######################################################################################


def test_a_deployment_without_keys_is_sent_none() -> None:
    for api in ("2", "3"):
        with LocalKumo(api=api, needs_key=False) as kumo:  # type: ignore[arg-type]
            client = KumoClient(kumo.url)
            client.check()
            assert launch(client).result(poll_interval=0.05).summary().num_entities_predicted
            assert not any("x-api-key" in request.headers for request in kumo.requests)


@pytest.mark.parametrize("generation", ["2", "3"])
def test_a_missing_key_is_named_where_one_is_asked_for(
    kumo: LocalKumo, kumo3: LocalKumo, generation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUMO_API_KEY", raising=False)
    with pytest.raises(KumoAuthenticationError, match="No API key is set: pass api_key="):
        KumoClient({"2": kumo, "3": kumo3}[generation].url).check()


@pytest.mark.parametrize("generation", ["2", "3"])
def test_a_key_that_is_refused_after_it_was_accepted_has_been_rotated(
    kumo: LocalKumo, kumo3: LocalKumo, generation: str
) -> None:
    server = {"2": kumo, "3": kumo3}[generation]
    client = KumoClient(server.url, server.api_key)
    client.list_prediction_jobs()
    server.faults.answer(401, path="/prediction_jobs")
    with pytest.raises(KumoAuthenticationError, match="rotated or revoked since") as caught:
        client.list_prediction_jobs()
    assert server.api_key not in str(caught.value)


def test_the_key_is_read_anew_for_each_run(
    kumo: LocalKumo, monkeypatch: pytest.MonkeyPatch
) -> None:
    resource = KumoResource(url=kumo.url)
    keys = [kumo.api_key, "another:key"]

    @dg.asset
    def ask(kumo: KumoResource) -> None:
        kumo.get_client().list_prediction_jobs()

    ended = []
    for key in keys:
        monkeypatch.setenv("KUMO_API_KEY", key)
        kumo.clear_requests()
        run = dg.materialize([ask], resources={"kumo": resource}, raise_on_error=False)
        ended.append(run.success)
        assert {request.headers["x-api-key"] for request in kumo.requests} == {key}
    assert ended == [True, False]


# The stand-in ##############################################################################


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/prediction_jobs", {"pred_table_path": None}, "pred_table_path"),
        ("/prediction_jobs", {"data_backend_session_id": None}, "data_backend_session_id"),
        ("/artifact", {"job_id": "bp-1"}, "request_id"),
        ("/artifact", {"request_id": "A" * 32, "job_id": "bp-1"}, "request_id"),
        ("/genpredtable_jobs", {"data_backend_session_id": None}, "graph_snapshot_id"),
        ("/training_jobs", {"enable_baselines": False}, "enable_baselines"),
    ],
)
def test_the_stand_in_refuses_what_the_models_of_3_0_do_not_take(
    kumo3: LocalKumo, path: str, body: dict[str, Any], field: str
) -> None:
    launch = {"job_tags": {}, "model_training_job_id": PURCHASE, "predict_options": {}}
    sent = {**(launch if path == "/prediction_jobs" else {}), **body}
    answer = requests.post(
        f"{kumo3.url}/v1{path}", json=sent, headers={"X-API-Key": kumo3.api_key}, timeout=30
    )
    assert answer.status_code == 422
    assert field in answer.text


def test_a_request_id_stands_for_one_payload(
    result3: BatchPredictionJobResult, client3: KumoClient
) -> None:
    request_id = str(uuid.uuid4())
    output = prediction_output("predictions", SnowflakeConnector("warehouse"), "ONE")
    first = client3.create_export(result3.id, output, request_id=request_id)
    assert client3.create_export(result3.id, output, request_id=request_id) == first
    other = prediction_output("predictions", SnowflakeConnector("warehouse"), "OTHER")
    with pytest.raises(KumoAPIError, match="409"):
        client3.create_export(result3.id, other, request_id=request_id)


def test_connectors_last_as_long_as_the_data_folder(tmp_path: Path) -> None:
    target = {"mode": "rooted", "bucket": "lasting"}
    with LocalKumo(tmp_path, api="3") as kumo:
        made = make_connector(KumoClient(kumo.url, kumo.api_key), "lasting", target)
    with LocalKumo(tmp_path, api="3") as kumo:
        again = make_connector(KumoClient(kumo.url, kumo.api_key), " Lasting", target)
        assert again == made
