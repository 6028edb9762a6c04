"""The project asks as the SDK asks: method, path, query and body of every call that both can make."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from dagster_kumo import (
    ArtifactExportJob,
    BatchPrediction,
    BatchPredictionJob,
    BatchPredictionJobResult,
    BigQueryConnector,
    DatabricksConnector,
    GCSConnector,
    KumoClient,
    PredictionTable,
    PredictionTableJob,
    S3Connector,
    SnowflakeConnector,
    TrainingJob,
)
from dagster_kumo.api.connectors import prediction_output
from dagster_kumo.local import LocalKumo
from tests.support import PURCHASE
from tests.system.contract.conftest import Same
from tests.system.contract.sdk import Sdk

JOB = "/prediction_jobs/{}"
TABLE = "/genpredtable_jobs/{}"
EXPORT = "/artifact/{}"
SOON = {"poll_interval": 0.05}


@pytest.mark.not_in_3("another call; see tests/api/test_generations.py")
def test_the_check_of_the_key(ours: KumoClient, both_ask: LocalKumo) -> None:
    """The SDK checks it when it connects, which it does once for a process."""
    both_ask.clear_requests()
    with Sdk() as another:
        another("connect", both_ask.url, both_ask.api_key)
    (theirs,) = [r for r in both_ask.requests if r.path != "/api/config"]
    both_ask.clear_requests()
    ours.check()
    (request,) = both_ask.requests
    assert (request.method, request.path, request.query) == ("GET", "/api/v1/connectors", {})
    assert (theirs.method, theirs.path, theirs.query) == ("GET", "/api/v1/connectors", {})
    assert request.headers["x-api-key"] == theirs.headers["x-api-key"]


# Launches


LAUNCHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "threshold": {"binary_classification_threshold": 0.25},
    "classes": {"num_classes_to_return": 3},
    "workers": {"num_workers": 4},
    "snapshot": {"graph_snapshot_id": "graph-1@20260101"},
    "tags": {"job_tags": {"team": "growth", "use.case": "churn-1"}},
}


@pytest.mark.parametrize("options", LAUNCHES.values(), ids=LAUNCHES)
def test_a_launch(
    same: Same, sdk: Sdk, ours: KumoClient, table_id: str, options: dict[str, Any]
) -> None:
    theirs = {("custom_tags" if k == "job_tags" else k): v for k, v in options.items()}
    prediction = BatchPrediction(
        training_job_id=PURCHASE, prediction_table_job_id=table_id, **options
    )
    asked = same(
        "POST",
        "/prediction_jobs",
        lambda: sdk(
            "launch",
            {"output_types": ["predictions"]},
            training_job_id=PURCHASE,
            table_job_id=table_id,
            **theirs,
        ),
        lambda: _launch(ours, prediction),
        answered=True,
    )
    assert [output["storage_type"] for output in asked.ours.json["outputs"]] in ([], ["LOCAL"])


def _launch(
    ours: KumoClient, prediction: BatchPrediction, prediction_time: datetime | None = None
) -> str:
    request = prediction.request(
        training_job_id=PURCHASE, outputs=["predictions"], prediction_time=prediction_time
    )
    job_id, _ = ours.create_prediction_job(request)
    return job_id


@pytest.mark.not_in_3("a table by its path alone")
def test_a_launch_for_ones_own_table(same: Same, sdk: Sdk, ours: KumoClient) -> None:
    path = "s3://bucket/entities"
    same(
        "POST",
        "/prediction_jobs",
        lambda: sdk(
            "launch",
            {"output_types": ["predictions"]},
            training_job_id=PURCHASE,
            table_path=path,
        ),
        lambda: _launch(
            ours, BatchPrediction(training_job_id=PURCHASE, prediction_table_path=path)
        ),
        answered=True,
    )


@pytest.mark.not_in_3("a table by its path alone")
@pytest.mark.parametrize(
    "path",
    [
        "s3://bucket/entities/",
        "s3://bucket/a//",
        pytest.param(
            "dbfs:/Volumes/c/s/v/x/", marks=pytest.mark.younger("a Volumes path as it is")
        ),
    ],
)
def test_a_path_of_ones_own_table_that_ends_in_a_slash(
    same: Same, sdk: Sdk, ours: KumoClient, path: str
) -> None:
    same(
        "POST",
        "/prediction_jobs",
        lambda: sdk(
            "launch",
            {"output_types": ["predictions"]},
            training_job_id=PURCHASE,
            table_path=path,
        ),
        lambda: _launch(
            ours, BatchPrediction(training_job_id=PURCHASE, prediction_table_path=path)
        ),
        answered=True,
    )
    theirs = sdk("table", "data_urls", table_data_path=path)
    assert PredictionTable(table_data_path=path).data_urls() == theirs


@pytest.mark.younger("prediction_time")
@pytest.mark.parametrize("zone", [timezone.utc, timezone(timedelta(hours=5, minutes=30))])
def test_a_launch_for_a_point_in_time(
    same: Same, sdk: Sdk, ours: KumoClient, zone: timezone
) -> None:
    midnight = datetime.now(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    time = (midnight - timedelta(days=5)).astimezone(zone)
    asked = same(
        "POST",
        "/prediction_jobs",
        lambda: sdk(
            "launch",
            {"output_types": ["predictions"]},
            training_job_id=PURCHASE,
            prediction_time=time.astimezone(timezone.utc).isoformat(),
        ),
        lambda: _launch(ours, BatchPrediction(training_job_id=PURCHASE), time),
        answered=True,
    )
    assert "pred_table_job_id" not in asked.ours.json


# Outputs


CONNECTORS: dict[str, Any] = {
    "s3": (S3Connector("s3://bucket/out"), "CHURN"),
    "s3, root": (S3Connector("s3://bucket"), "CHURN"),
    "s3, slash": (S3Connector("s3://bucket/out/"), "CHURN"),
    "s3, slashes": pytest.param(
        (S3Connector("s3://bucket/out//"), "CHURN"),
        marks=pytest.mark.not_in_3("a root that ends in two slashes"),
    ),
    "s3, folder in the name": (S3Connector("s3://bucket/out"), "a/CHURN"),
    "s3, part": (S3Connector("s3://bucket/out"), "CHURN/{PARTITION}"),
    "s3, part in the root": (S3Connector("s3://bucket/{PARTITION}/"), "CHURN"),
    "gcs": pytest.param(
        (GCSConnector("gs://bucket/out"), "CHURN"), marks=pytest.mark.younger("GCSConnector")
    ),
    "gcs, slash": pytest.param(
        (GCSConnector("gs://bucket/out/"), "CHURN"), marks=pytest.mark.younger("GCSConnector")
    ),
    "snowflake": (SnowflakeConnector("warehouse"), "CHURN"),
    "bigquery": (BigQueryConnector("analytics"), "CHURN"),
    "databricks": (DatabricksConnector("lakehouse"), ("analytics", "churn")),
}


def _described(output_types: list[str], connector: Any, table: Any, **options: Any) -> Any:
    """The output as the SDK's side is told."""
    where = getattr(connector, "root_dir", None) or connector.name
    return {
        "output_types": output_types,
        "connector": [type(connector).__name__, where],
        "table_name": table,
        **options,
    }


@pytest.mark.parametrize("fields", [[], ["JOB_TIMESTAMP", "ANCHOR_TIMESTAMP"]])
@pytest.mark.parametrize("output_type", ["predictions", "embeddings"])
@pytest.mark.parametrize("target", CONNECTORS.values(), ids=CONNECTORS)
def test_an_export(
    same: Same,
    sdk: Sdk,
    ours: KumoClient,
    job_id: str,
    target: Any,
    output_type: Any,
    fields: list[Any],
) -> None:
    connector, table = target
    output = _described([output_type], connector, table, metadata_fields=fields)
    same(
        "POST",
        "/artifact",
        lambda: sdk("export", job_id, output),
        lambda: BatchPredictionJobResult(job_id, ours).export(
            output_type, connector, table, metadata_fields=fields
        ),
        answered=True,
    )


@pytest.mark.parametrize("mode", ["OVERWRITE", "APPEND"])
@pytest.mark.parametrize(
    "connector",
    [
        pytest.param(
            SnowflakeConnector("warehouse"), marks=pytest.mark.younger("Snowflake write mode")
        ),
        BigQueryConnector("analytics"),
    ],
    ids=["snowflake", "bigquery"],
)
def test_an_export_with_a_write_mode(
    same: Same, sdk: Sdk, ours: KumoClient, job_id: str, connector: Any, mode: Any
) -> None:
    output = _described(["predictions"], connector, "CHURN", write_mode=mode)
    asked = same(
        "POST",
        "/artifact",
        lambda: sdk("export", job_id, output),
        lambda: BatchPredictionJobResult(job_id, ours).export(
            "predictions", connector, "CHURN", write_mode=mode
        ),
        answered=True,
    )
    assert asked.ours.json["prediction_output"]["write_mode"] == mode


@pytest.mark.parametrize("output_types", [["predictions"], ["predictions", "embeddings"]])
@pytest.mark.parametrize("target", CONNECTORS.values(), ids=CONNECTORS)
def test_a_launch_that_exports(
    same: Same,
    sdk: Sdk,
    ours: KumoClient,
    table_id: str,
    target: Any,
    output_types: list[Any],
) -> None:
    connector, table = target
    prediction = BatchPrediction(training_job_id=PURCHASE, prediction_table_job_id=table_id)
    request = prediction.request(
        training_job_id=PURCHASE, outputs=["predictions"], prediction_time=None
    )
    outputs = [prediction_output(o, connector, table) for o in output_types]
    same(
        "POST",
        "/prediction_jobs",
        lambda: sdk(
            "launch",
            _described(output_types, connector, table),
            training_job_id=PURCHASE,
            table_job_id=table_id,
        ),
        lambda: ours.create_prediction_job(request.model_copy(update={"outputs": outputs})),
        answered=True,
    )


# Jobs


@pytest.mark.parametrize(
    ("member", "method", "path"),
    [
        ("status", "GET", JOB),
        ("progress", "GET", f"{JOB}/progress"),
        ("tracking_url", "GET", JOB),
        ("cancel", "POST", f"{JOB}/cancel"),
        ("result", "GET", JOB),
    ],
)
def test_a_call_about_a_prediction_job(
    same: Same, sdk: Sdk, ours: KumoClient, job_id: str, member: str, method: str, path: str
) -> None:
    def call() -> Any:
        value = getattr(BatchPredictionJob(job_id, ours), member)
        return value() if callable(value) else value

    same(method, path.format(job_id), lambda: sdk("prediction_job", job_id, member), call)


def test_tags_are_updated(same: Same, sdk: Sdk, ours: KumoClient, job_id: str) -> None:
    tags = {"team": "growth", "use.case": "a b&c=ü", "n": "1"}
    same(
        "PATCH",
        f"{JOB}/tags".format(job_id),
        lambda: sdk("prediction_job", job_id, "update_tags", tags),
        lambda: BatchPredictionJob(job_id, ours).update_tags(tags),
    )


def test_tags_are_removed(same: Same, sdk: Sdk, ours: KumoClient, job_id: str) -> None:
    same(
        "PATCH",
        f"{JOB}/tags".format(job_id),
        lambda: sdk("prediction_job", job_id, "delete_tags", ["team", "n"]),
        lambda: BatchPredictionJob(job_id, ours).update_tags({"team": None, "n": None}),
    )


@pytest.mark.parametrize(
    ("member", "path"),
    [
        ("tracking_url", JOB),
        ("summary", JOB),
        ("prediction_table", JOB),
        ("prediction_table", TABLE),
        ("predictions_urls", f"{JOB}/get_prediction_df_urls"),
        pytest.param(
            "embeddings_urls",
            f"{JOB}/get_embedding_df_urls",
            marks=pytest.mark.younger("embeddings_urls"),
        ),
    ],
)
def test_a_call_about_a_result(
    same: Same, sdk: Sdk, ours: KumoClient, job_id: str, table_id: str, member: str, path: str
) -> None:
    def call() -> Any:
        value = getattr(BatchPredictionJobResult(job_id, ours), member)
        return value() if callable(value) else value

    id = table_id if path == TABLE else job_id
    same("GET", path.format(id), lambda: sdk("result", job_id, member), call)


@pytest.mark.parametrize(
    ("member", "method", "path"),
    [
        ("status", "GET", EXPORT),
        ("cancel", "POST", f"{EXPORT}/cancel"),
        ("result", "GET", EXPORT),
    ],
)
def test_a_call_about_an_export(
    same: Same, sdk: Sdk, ours: KumoClient, export_id: str, member: str, method: str, path: str
) -> None:
    asked = same(
        method,
        path.format(export_id),
        lambda: sdk("export_job", export_id, member),
        lambda: getattr(ArtifactExportJob(export_id, ours), member)(),
    )
    assert asked.our_value == asked.their_value


FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "status": {"status": "DONE"},
    "tags": {"tags": {"use_case": "spend", "x": "a b"}},
    "both": {"status": "FAILED", "tags": {"pquery_id": "pquery-cdnow-purchase"}},
    "model": {"tags": {"model_id": PURCHASE}},
    "query": {"tags": {"pquery_name": "cdnow_purchase"}},
}


@pytest.mark.parametrize("filters", FILTERS.values(), ids=FILTERS)
@pytest.mark.parametrize("kind", ["training_jobs", "prediction_jobs"])
def test_jobs_are_listed(
    same: Same, sdk: Sdk, ours: KumoClient, kind: str, filters: dict[str, Any]
) -> None:
    theirs = {"limit": 7, "additional_tags": filters.get("tags", {})}
    if "status" in filters:
        theirs["job_status"] = filters["status"]
    api = {"training_jobs": "training_job_api", "prediction_jobs": "batch_prediction_job_api"}
    asked = same(
        "GET",
        f"/{kind}",
        lambda: sdk("list_jobs", api[kind], **theirs),
        lambda: getattr(ours, f"list_{kind}")(limit=7, **filters),
    )
    assert [job.job_id for job in asked.our_value] == asked.their_value


@pytest.mark.younger("search_by_tags")
@pytest.mark.parametrize(
    ("kind", "path", "method"),
    [
        ("BatchPredictionJob", "/prediction_jobs", "list_prediction_jobs"),
        ("TrainingJob", "/training_jobs", "list_training_jobs"),
        ("PredictionTableJob", "/genpredtable_jobs", "list_prediction_table_jobs"),
    ],
)
def test_jobs_are_searched_by_tags(
    same: Same, sdk: Sdk, ours: KumoClient, kind: str, path: str, method: str
) -> None:
    tags = {"pquery_id": "pquery-cdnow-purchase"}
    asked = same(
        "GET",
        path,
        lambda: sdk("find_jobs", kind, tags, 9),
        lambda: getattr(ours, method)(tags, limit=9),
    )
    assert [job.job_id for job in asked.our_value] == asked.their_value


def test_a_training_job_is_got(same: Same, sdk: Sdk, ours: KumoClient) -> None:
    asked = same(
        "GET",
        f"/training_jobs/{PURCHASE}",
        lambda: sdk("get_training_job", PURCHASE),
        lambda: ours.get_training_job(PURCHASE),
    )
    assert asked.our_value.job_id == asked.their_value


TRAININGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "snapshot": {"graph_snapshot_id": "graph-1@20260101"},
    "tags": {"job_tags": {"team": "growth"}},
    "warm": {"warm_start_job_id": PURCHASE},
}


@pytest.mark.younger("a model plan by its sections")
@pytest.mark.parametrize("options", TRAININGS.values(), ids=TRAININGS)
def test_a_training_is_launched(
    same: Same, sdk: Sdk, ours: KumoClient, options: dict[str, Any]
) -> None:
    request = {"job_tags": {}, "pquery_id": "pquery-cdnow-purchase", **options}
    plan = sdk("parse", "model_plan.ModelPlan", {"training_job": {"num_experiments": 1}})
    asked = same(
        "POST",
        "/training_jobs",
        lambda: sdk("train", plan, **request),
        lambda: ours.create_training_job({**request, "model_plan": plan}),
    )
    for job_id in (asked.our_value, asked.their_value):  # each sees the other's
        assert ours.get_training_job(job_id).tags.items() >= request["job_tags"].items()
        assert sdk("get_training_job", job_id) == job_id
        TrainingJob(job_id, ours).result(**SOON)
        assert sdk("training_job", job_id, "metrics")["test_metrics"][0]["name"] == "auroc"


@pytest.mark.younger("a model plan by its sections")
def test_a_plan_is_suggested_and_a_snapshot_taken(same: Same, sdk: Sdk, ours: KumoClient) -> None:
    query = ours.get_predictive_query("pquery-cdnow-purchase")
    graph = sdk("parse", "graph.GraphDefinition", query.graph)
    asked = same(
        "POST",
        "/graphs",
        lambda: sdk("create_graph", graph),
        lambda: ours.create_graph(graph),
    )
    graph_id = asked.our_value
    assert asked.their_value == graph_id
    about = (query.query_string, graph_id, "best")
    asked = same(
        "POST",
        "/predictive_queries/model_plan",
        lambda: sdk("suggest_plan", *about),
        lambda: ours.suggest_model_plan(*about),
    )
    assert asked.our_value["training_job"]["num_experiments"] == 4
    assert asked.their_value["training_job"]["num_experiments"] == 4
    asked = same(
        "POST",
        "/graphsnapshots",
        lambda: sdk("take_snapshot", graph_id),
        lambda: ours.refresh_graph_snapshot(graph_id),
    )
    assert asked.our_value == asked.their_value


def test_a_predictive_query_is_got(same: Same, sdk: Sdk, ours: KumoClient) -> None:
    query_id = "pquery-cdnow-purchase"
    asked = same(
        "GET",
        f"/predictive_queries/{query_id}",
        lambda: sdk("query_text", PURCHASE),
        lambda: ours.get_predictive_query(query_id).query_string,
    )
    assert asked.our_value == asked.their_value


# Prediction tables


PLANS: dict[str, dict[str, Any] | None] = {
    "inferred": None,
    "anchor": {"anchor_time": 1_700_000_000_000_000_000},
    "forecast": {
        "anchor_time": 1_700_000_000_000_000_000,
        "forecast_length": 4,
        "lag_timesteps": 8,
        "year_over_year": True,
    },
}
UNSAID = {
    "anchor_time": "inferred",
    "forecast_length": "???",
    "lag_timesteps": "???",
    "year_over_year": "???",
}


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_prediction_table_is_generated(
    same: Same, sdk: Sdk, ours: KumoClient, both_ask: LocalKumo, plan: dict[str, Any] | None
) -> None:
    tags = {"team": "growth"}

    def theirs() -> str:
        id = sdk("generate_table", PURCHASE, plan, tags)
        (body,) = [r.json for r in both_ask.requests if r.path.endswith("/genpredtable_jobs")]
        sent.update(body)
        return id

    sent: dict[str, Any] = {}
    same(
        "POST",
        "/genpredtable_jobs",
        theirs,
        lambda: ours.create_prediction_table_job(
            sent["pquery_id"],
            {**UNSAID, **(plan or {})},
            job_tags=tags,
            graph_snapshot_id=sent["graph_snapshot_id"],  # an older SDK takes one by itself
        ),
    )


@pytest.mark.parametrize(
    ("member", "method", "path"),
    [
        ("status", "GET", TABLE),
        ("result", "GET", TABLE),
        ("cancel", "POST", f"{TABLE}/cancel"),
    ],
)
def test_a_call_about_a_prediction_table_job(
    same: Same, sdk: Sdk, ours: KumoClient, table_id: str, member: str, method: str, path: str
) -> None:
    same(
        method,
        path.format(table_id),
        lambda: sdk("table_job", table_id, member),
        lambda: getattr(PredictionTableJob(table_id, ours), member)(),
    )


@pytest.mark.younger("tags of a prediction table job")
@pytest.mark.parametrize(
    ("call", "tags"), [("update_tags", {"team": "growth"}), ("delete_tags", {"team": None})]
)
def test_tags_of_a_prediction_table_job(
    same: Same, sdk: Sdk, ours: KumoClient, table_id: str, call: str, tags: dict[str, Any]
) -> None:
    job = PredictionTableJob(table_id, ours)
    same(
        "PATCH",
        f"{TABLE}/tags".format(table_id),
        lambda: sdk("table_job", table_id, call, list(tags) if call == "delete_tags" else tags),
        lambda: job.update_tags(tags),
    )
    assert job.get().tags.get("team") == tags["team"]


def test_the_errors_of_a_prediction_table_job(
    same: Same, sdk: Sdk, ours: KumoClient, table_id: str
) -> None:
    same(
        "GET",
        f"{TABLE}/get_errors".format(table_id),
        lambda: sdk("table_errors", table_id),
        lambda: ours.get_prediction_table_errors(table_id),
    )


@pytest.mark.parametrize(
    ("member", "path"),
    [("anchor_time", f"{TABLE}/get_anchor_time"), ("data_urls", f"{TABLE}/table_data")],
)
def test_a_call_about_a_prediction_table(
    same: Same, sdk: Sdk, ours: KumoClient, table_id: str, member: str, path: str
) -> None:
    def call() -> Any:
        value = getattr(PredictionTable(table_id, ours), member)
        return value() if callable(value) else value

    same("GET", path.format(table_id), lambda: sdk("table", member, job_id=table_id), call)


# Groups and projects


@pytest.fixture(scope="module")
def with_groups() -> Iterator[LocalKumo]:
    with LocalKumo(rbac=True) as kumo:
        yield kumo


@pytest.mark.younger("groups")
@pytest.mark.not_in_3("projects instead of groups; see tests/api/test_generations.py")
def test_groups_and_projects_are_named_in_every_call(with_groups: LocalKumo) -> None:
    where = {"group": "Analytics", "project": "project-churn"}
    with Sdk() as sdk:
        sdk("connect", with_groups.url, with_groups.api_key, **where)
        client = KumoClient(with_groups.url, with_groups.api_key, **where)
        calls: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
            (
                r"/training_jobs",
                lambda: sdk("list_jobs", "training_job_api", limit=3),
                lambda: client.list_training_jobs(limit=3),
            ),
            (
                rf"/training_jobs/{PURCHASE}",
                lambda: sdk("get_training_job", PURCHASE),
                lambda: client.get_training_job(PURCHASE),
            ),
            (
                r"/prediction_jobs",
                lambda: sdk(
                    "launch",
                    {"output_types": ["predictions"]},
                    training_job_id=PURCHASE,
                    custom_tags={"a": "b"},
                ),
                lambda: _launch(
                    client, BatchPrediction(training_job_id=PURCHASE, job_tags={"a": "b"})
                ),
            ),
        ]
        for path, theirs, ours in calls:
            asked = []
            for call in (theirs, ours):
                with_groups.clear_requests()
                call()
                asked += [r for r in with_groups.requests if re.fullmatch(f"/api/v1{path}", r.path)]
            assert asked[0].method == asked[1].method
            assert asked[0].query == asked[1].query
            assert asked[0].query["group_id"] == "group-analytics"
            assert asked[0].query["project_id"] == "project-churn"
            assert {r.status for r in asked} == {200}
